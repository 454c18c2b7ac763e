"""The demo: a database under constant writes, a cycle, and the proof on the snapshot.

python -m tests.demo dist/app

As root: on a scratch btrfs volume, snapshotted by btrfs itself, and on a scratch ext4 volume, frozen
while a command copies its image. Without root: in a plain folder, held but not frozen, copied by a
command. Exit status 0 only if every scene reached its level and lost no acknowledged commit.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import ledger, scratch


class DemoFailed(Exception):
    """A command or a check did not give what it must."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a scene plays: the binary, a private folder on tmpfs for policies and ledgers, and its prefix."""

    binary: Path
    folder: Path

    def app(self, *arguments: str | Path, show: str = "all") -> str:
        """Run ``app``, show its output (``all``, its first lines, or ``none``) and give it back."""
        return self.run(self.binary, *arguments, show=show)

    def run(self, *argv: str | Path, show: str = "all") -> str:
        """Run a command and show it. Raises DemoFailed unless it ends with 0."""
        words = ["app" if word == self.binary else str(word) for word in argv]
        print(f"\n$ {' '.join(words)}", flush=True)
        environ = {**os.environ, "STILLFRAME_PREFIX": str(self.folder / "prefix")}
        done = subprocess.run(
            list(map(str, argv)),
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        # Progress comes on stderr while it works, and the result on stdout.
        lines = (done.stderr + done.stdout).rstrip().splitlines()
        shown = lines if show == "all" or done.returncode else lines[: int(show)]
        for line in shown:
            print(f"  {line}".rstrip())
        if len(shown) < len(lines):
            print(f"  ... ({len(lines) - len(shown)} more lines)")
        if done.returncode:
            raise DemoFailed(f"{' '.join(words)} ended with {done.returncode}")
        return done.stdout


@dataclass(frozen=True, slots=True)
class Scene:
    """One way to take a snapshot: what goes into ``[snapshot]`` and ``[freeze]``, and what must come out."""

    title: str
    volume: Path
    snapshot: str
    freeze: str
    level: str


def policy_for(stage: Stage, scene: Scene, database: Path) -> Path:
    """The operator's policy of this scene: what differs from the shipped one, and no more."""
    path = stage.folder / "orders.toml"
    text = (
        f'version = 1\nname = "orders"\nextends = "sqlite"\n\n'
        f"[settings]\ndatabases = [{json.dumps(str(database))}]\n\n"
        f"[freeze]\n{scene.freeze}\n\n[snapshot]\n{scene.snapshot}\n"
    )
    path.write_text(text, encoding="utf-8")
    print(f"\n$ cat {path}")
    for line in text.splitlines():
        print(f"  {line}".rstrip())
    return path


@dataclass(frozen=True, slots=True)
class Played:
    """What a run left: its policy, its report, the writer's ledger, and when the hold stood.

    ``held`` and ``released`` (its begin) are CLOCK_MONOTONIC seconds, as the ledger's, from the run's
    own journal.
    """

    policy: Path
    report: dict[str, Any]
    noted: ledger.Ledger
    held: float
    released: float


def play(stage: Stage, scene: Scene) -> Played:
    """Everything up to the snapshot."""
    print(f"\n=== {scene.title}")
    database = scene.volume / "orders.db"
    with ledger.Writer("sqlite", str(database), notes=stage.folder / "ledger") as writer:
        policy = policy_for(stage, scene, database)
        stage.app("validate", policy)
        stage.app("compile", policy, "--out", stage.folder / "azure")
        stage.app("explain", policy, show="24")
        writer.wait_for(200)
        stage.app("run", policy)
        writer.wait_for(200)
        noted = writer.ledger
    report = json.loads(stage.app("report", "--json", show="0"))
    journal = (stage.folder / "prefix/run/stillframe/journal").read_text(encoding="utf-8")
    times = {event["event"]: event["t"] for event in map(json.loads, journal.splitlines())}
    return Played(policy, report, noted, times["quiesced"], times["releasing"])


def judge(stage: Stage, scene: Scene, played: Played, copy: Path) -> None:
    """Prove the copy, and hold it against the ledger. Raises DemoFailed."""
    stage.app("prove", played.policy, "--data", copy)
    found = ledger.committed_sqlite(copy / "orders.db")
    before = played.noted.acknowledged_before(played.held)
    # Sent and acknowledged within: one that was only noted late is not.
    during = [e for e in played.noted.entries if played.held < e.sent and e.acknowledged < played.released]
    missing = before - found
    stall = played.noted.longest_stall(played.held, played.released)
    report = played.report
    frozen = max((f["held_seconds"] for f in report["filesystems"]), default=0.0)
    print(f"\n  level asked for      {report['requested']}")
    print(f"  level reached        {report['achieved']}")
    print(f"  application held     {(played.released - played.held) * 1000:.0f} ms (by the journal)")
    print(f"  filesystem frozen    {f'{frozen * 1000:.0f} ms (by the report)' if frozen else 'no'}")
    print(f"  writers stood still  {stall * 1000:.0f} ms (by the writer's own ledger)")
    print(f"  commits acknowledged {len(before)} before the hold, {len(during)} during it")
    print(f"  commits missing      {len(missing)} of those from before the hold, in the snapshot")
    if report["achieved"] != scene.level:
        raise DemoFailed(f"the level is {report['achieved']}, not {scene.level}: {report['because']}")
    if missing:
        raise DemoFailed(f"acknowledged commits are missing: {sorted(missing)[:10]}")
    if during:
        raise DemoFailed(f"commits were acknowledged during the hold: {during[:3]}")


def on_btrfs(stage: Stage) -> None:
    """btrfs: its own snapshot, by one ioctl; nothing has to be frozen."""
    with scratch.filesystem("btrfs", 1024) as volume:
        data, snapshots = volume.mount / "data", volume.mount / "snapshots"
        subprocess.run(["btrfs", "-q", "subvolume", "create", str(data)], check=True)
        snapshots.mkdir(mode=0o700)
        scene = Scene(
            "btrfs: SQLite under constant writes, the volume's own snapshot",
            data,
            f'provider = "btrfs"\nsource = "{data}"\ndestination = "{snapshots}"',
            "enabled = false",
            "application",
        )
        played = play(stage, scene)
        taken = Path(played.report["snapshot"]["reference"])
        clone = snapshots / "clone"
        stage.run("btrfs", "-q", "subvolume", "snapshot", taken, clone)
        judge(stage, scene, played, clone)


def on_ext4(stage: Stage) -> None:
    """ext4: frozen while a command copies the image below it, as a storage array's snapshot would."""
    with scratch.filesystem("ext4", 256) as volume:
        copy, mount = volume.image.with_name("copy"), volume.image.with_name("restored")
        scene = Scene(
            "ext4: SQLite under constant writes, the filesystem frozen while its image is copied",
            volume.mount,
            f'provider = "command"\nargv = ["cp", "--sparse=always", "{volume.image}", "{copy}"]\n'
            "needs_freeze = true",
            f'mounts = ["{volume.mount}"]',
            "application",
        )
        played = play(stage, scene)
        mount.mkdir()
        # Writable, so that ext4 replays its journal: this is what a restore does.
        with scratch.mounted(copy, mount, "ext4"):
            print(f"\n$ mount -o loop {copy} {mount}")
            judge(stage, scene, played, mount)


def without_root(stage: Stage) -> None:
    """A plain folder: held, not frozen, copied file by file."""
    with tempfile.TemporaryDirectory(prefix="stillframe-demo-") as folder:
        data, copy = Path(folder, "data"), Path(folder, "copy")
        data.mkdir()
        scene = Scene(
            "no root: SQLite under constant writes, held while a command copies the folder, not frozen",
            data,
            f'provider = "command"\nargv = ["cp", "-r", "{data}", "{copy}"]\nneeds_freeze = false',
            "enabled = false",
            "application",
        )
        judge(stage, scene, play(stage, scene), copy)


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of our own that no freeze reaches, and that root may trust: nobody else can write there."""
    below = "/run" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="stillframe-demo-", dir=below))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(binary: Path) -> int:
    """Play every scene that this machine allows; the exit status."""
    begun = time.monotonic()
    root = os.geteuid() == 0
    scenes = (on_btrfs, on_ext4) if root else (without_root,)
    failed = 0
    for scene in scenes:
        with private_folder() as folder:
            try:
                scene(Stage(binary.absolute(), folder))
                print("\n  PASS")
            except (DemoFailed, AssertionError, subprocess.CalledProcessError) as error:
                failed += 1
                print(f"\n  FAIL: {error}")
    if not root:
        print("\nNot root: nothing was frozen, and no scratch volume was made. As root the demo shows both.")
    passed = len(scenes) - failed
    print(f"\ndemo: {'FAIL' if failed else 'PASS'}: {passed} of {len(scenes)} scenes", end=", ")
    print(
        f"{time.monotonic() - begun:.0f} s, every commit acknowledged before a hold is in its snapshot"
        * (not failed)
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
