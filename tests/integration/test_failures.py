"""What goes wrong during a cycle: always thawed, released, told by its exit status, and nothing claimed."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ledger, scratch
from tests.integration.stage import Stage, first_commit_after, stage, write_probe
from tests.integration.strike import LIMIT, thaw_is_refused

pytestmark = [pytest.mark.integration]


@dataclass(slots=True)
class Scene:
    """A database under a writer on a volume that may be frozen."""

    here: Stage
    mount: Path
    writer: ledger.Writer

    def policy(self, snapshot: str, timeout: float = 20, hold: float = 30, extra: str = "") -> Path:
        return self.here.policy(
            f'name = "orders"\nextends = "sqlite"\n{extra}\n'
            f'[settings]\ndatabases = ["{self.mount}/orders.db"]\n'
            f"[timing]\nquiesce = 10\nretries = 0\nhold = {hold}\nrelease = 5\n"
            f'[freeze]\nmounts = ["{self.mount}"]\ntimeout = {timeout}\n[snapshot]\n{snapshot}\n'
        )

    def check_let_go(self, since: float) -> None:
        """Thawed and released within two seconds from then, and nobody holds anything."""
        assert first_commit_after(self.writer, since, 5) - since < LIMIT
        assert thaw_is_refused(self.mount)
        assert not self.here.is_locked()


@pytest.fixture
def scene(app_command: list[str], as_root: None) -> Iterator[Scene]:
    with scratch.filesystem("ext4", 64) as volume, stage(app_command) as here:
        notes = here.folder / "ledger"
        with ledger.Writer("sqlite", str(volume.mount / "orders.db"), notes=notes) as writer:
            try:
                yield Scene(here, volume.mount, writer)
            finally:
                scratch.thaw(volume.mount)


SLOW_VERIFY = """
[[verify]]
mechanism = "sqlite"
action = "verify"
[[verify]]
mechanism = "command"
argv = ["sleep", "0.4"]
"""
"""Time to strike between the thaw and the release."""


def command(*argv: str | Path, deadline: float = 10) -> str:
    """``[snapshot]`` with a program of the operator's own."""
    return f'provider = "command"\nargv = {json.dumps([str(a) for a in argv])}\ndeadline = {deadline}'


def is_running(marker: str) -> bool:
    """Whether a process has that word in its arguments."""
    found = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True).stdout
    return any(marker in line and not line.startswith("Z") for line in found.splitlines())


@pytest.mark.root
class TestSnapshotCommand:
    """The operator's own program takes the snapshot, or does not."""

    def test_fails(self, scene: Scene) -> None:
        """Its status and its last words stand in the report; exit 6."""
        program = scene.here.program("snap", "#!/bin/sh\necho no space in the pool >&2\nexit 3\n")
        status, report = scene.here.run(scene.policy(command(program)))
        ended = time.monotonic()
        assert (status, report["achieved"], report["snapshot"]["state"]) == (6, "none", "failed")
        assert "ended with status 3: no space in the pool" in report["snapshot"]["reason"]
        scene.check_let_go(ended)

    def test_hangs(self, scene: Scene) -> None:
        """Ended at its deadline, with what it started; exit 6."""
        marker = f"600.{os.getpid()}"
        program = scene.here.program("snap", f"#!/bin/sh\nsleep {marker} & sleep {marker}\n")
        cycle = scene.here.start("run", "--json", scene.policy(command(program, deadline=0.5)))
        begun = float(cycle.when("snapshot_begin")["t"])
        assert cycle.wait(10) == 6
        scene.check_let_go(begun + 0.5)
        (report,) = scene.here.reports()
        assert "did not end in the time allowed" in report["snapshot"]["reason"]
        assert not is_running(marker)

    def test_writes_to_what_is_frozen(self, scene: Scene) -> None:
        """Nothing can kill it while it waits for the frozen filesystem: it is thawed all the same."""
        program = scene.here.program("snap", f"#!/bin/sh\necho copied > {scene.mount}/note\n")
        cycle = scene.here.start("run", "--json", scene.policy(command(program, deadline=0.5)))
        begun = float(cycle.when("snapshot_begin")["t"])
        assert cycle.wait(10) == 6
        scene.check_let_go(begun + 0.5)
        assert scene.here.wait_until_free(2) < 2
        assert not is_running(f"{scene.mount}/note")

    def test_talks_much(self, scene: Scene) -> None:
        """A megabyte of output neither blocks it nor fills the report."""
        program = scene.here.program(
            "snap", "#!/bin/sh\nyes 0123456789 | head -c 1000000\necho; echo the end\n"
        )
        status, report = scene.here.run(scene.policy(command(program)))
        assert (status, report["achieved"]) == (0, "application")
        output = report["snapshot"]["details"]["output"]
        assert len(output) <= 4096
        assert output.endswith("the end\n")

    def test_leaves_a_child_behind(self, scene: Scene) -> None:
        """A child that keeps its output open keeps nobody waiting, and does not outlive the hold."""
        marker = f"601.{os.getpid()}"
        program = scene.here.program("snap", f"#!/bin/sh\nsleep {marker} &\necho taken\n")
        begun = time.monotonic()
        status, report = scene.here.run(scene.policy(command(program)))
        assert time.monotonic() - begun < 5
        assert (status, report["achieved"]) == (0, "application")
        assert not is_running(marker)

    def test_client_killed(self, scene: Scene) -> None:
        """It ends with the client that started it."""
        marker = f"602.{os.getpid()}"
        program = scene.here.program("snap", f"#!/bin/sh\nsleep {marker} & sleep {marker}\n")
        cycle = scene.here.start("run", "--json", scene.policy(command(program)))
        cycle.when("snapshot_begin")
        give_up = time.monotonic() + 5
        while not is_running(marker):
            assert time.monotonic() < give_up
        struck = time.monotonic()
        cycle.process.kill()
        cycle.wait(5)
        scene.here.wait_until_free(5)
        scene.check_let_go(struck)
        assert not is_running(marker)

    def test_program_is_missing(self, scene: Scene) -> None:
        """Found out before anything is held; exit 4."""
        status, _, errors = scene.here.app("run", scene.policy(command("/nowhere/snap")))
        assert status == 4
        assert "the program '/nowhere/snap' is not there" in errors
        assert not scene.here.events()

    def test_program_that_others_could_have_written(self, scene: Scene) -> None:
        """Root does not run it (law 6); exit 4, nothing held."""
        program = scene.here.program("snap", "#!/bin/sh\n")
        program.chmod(0o777)
        status, _, errors = scene.here.app("run", scene.policy(command(program)))
        assert status == 4
        assert str(program) in errors
        assert not scene.here.events()


@pytest.mark.root
@pytest.mark.parametrize("snapshot", ['provider = "none"\nseconds = 20', command("sleep", "20", deadline=20)])
def test_deadline_passes_during_the_snapshot(scene: Scene, snapshot: str) -> None:
    """The freeze's own deadline ends the hold, whatever the snapshot still wants (law 1)."""
    cycle = scene.here.start("run", "--json", scene.policy(snapshot, timeout=1, hold=5))
    frozen = float(cycle.when("frozen")["t"])
    assert cycle.wait(10) == 6
    scene.check_let_go(frozen + 1)
    (report,) = scene.here.reports()
    assert report["achieved"] == "none"
    assert "deadline has passed" in "; ".join(report["because"])


@pytest.mark.root
def test_two_at_once(scene: Scene) -> None:
    """The second is told so, at once, and disturbs nothing; exit 5."""
    first = scene.here.start("run", "--json", scene.policy('provider = "none"\nseconds = 1'))
    first.when("snapshot_begin")
    with_first = scene.here.folder / "second"
    with_first.mkdir()
    begun = time.monotonic()
    done = subprocess.run(
        [*scene.here.command, "run", scene.here.folder / "policy.toml"],
        env={**os.environ, "STILLFRAME_PREFIX": str(scene.here.prefix)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 5
    assert "another hold is running" in done.stderr
    assert time.monotonic() - begun < 1
    assert first.wait(10) == 0
    (report,) = scene.here.reports()
    assert report["achieved"] == "application"


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("instant", ["quiesced", "frozen", "snapshot_begin", "thawed"])
def test_interrupted(scene: Scene, number: signal.Signals, instant: str) -> None:
    """Let go within two seconds, exit 130, and a report that says why."""
    chosen = scene.policy('provider = "none"\nseconds = 0.5', extra=SLOW_VERIFY)
    cycle = scene.here.start("run", "--json", chosen)
    cycle.when(instant)
    struck = time.monotonic()
    os.kill(cycle.process.pid, number)
    took = write_probe(scene.mount)(LIMIT)
    assert cycle.wait(10) == 130, cycle.errors
    assert took < LIMIT
    scene.check_let_go(struck)
    assert "interrupted" in cycle.errors
    (report,) = scene.here.reports()
    assert report["achieved"] != "application"
    assert "interrupted" in "; ".join(report["because"])
    assert not report["stuck"]


@pytest.mark.root
def test_no_room_for_the_report(scene: Scene) -> None:
    """The cycle succeeds, and its report is shown with a word that it could not be kept."""
    library = Path(scene.here.paths.lib)
    library.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "none", library], check=True)
    try:
        with pytest.raises(OSError, match="No space"):
            (library / "filler").write_bytes(bytes(1 << 20))
        status, report = scene.here.run(scene.policy('provider = "none"'))
    finally:
        subprocess.run(["umount", library], check=True)
    assert (status, report["achieved"]) == (0, "application")
    assert "No space left" in report["not_kept"]


@pytest.mark.root
def test_unprivileged(scene: Scene) -> None:
    """Somebody else than root holds his own database, freezes nothing, and says so."""
    nobody = pwd.getpwnam("nobody")
    here = scene.here
    for folder in (here.folder / "own", here.folder / "own" / "prefix"):
        folder.mkdir()
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    database = here.folder / "own" / "mine.db"
    chosen = here.policy(
        f'name = "mine"\nextends = "sqlite"\n[settings]\ndatabases = ["{database}"]\n'
        f'[freeze]\nmounts = ["{scene.mount}"]\n[snapshot]\nprovider = "none"\nseconds = 0.2\n',
        "mine",
    )
    chosen.chmod(0o644)
    make = f"import sqlite3; c = sqlite3.connect('{database}'); c.execute('CREATE TABLE t(a)'); c.commit()"
    as_nobody = ["runuser", "-u", "nobody", "--"]
    here.skip_unless_started_by(as_nobody)
    subprocess.run([*as_nobody, "python3", "-c", make], check=True, cwd="/")
    done = subprocess.run(
        [*as_nobody, *here.command, "run", "--json", str(chosen)],
        env={**os.environ, "STILLFRAME_PREFIX": str(here.folder / "own" / "prefix"), "HOME": "/"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd="/",
    )
    assert "only root can freeze filesystems" in done.stderr
    report = json.loads(done.stdout)
    assert not report["filesystems"]
    assert report["applications"][0]["held"]
    words = "; ".join(report["because"])
    assert report["achieved"] != "application" or "only root can freeze" in words
    assert done.returncode == report["exit"]
    assert thaw_is_refused(scene.mount)
