"""How long writers stand still: ``app run`` against plain ``fsfreeze``, with dirty pages to write back.

python -m tests.bench [--rounds N] [--megabytes N] [--binary PATH]

An ext4 filesystem on a loop device gets so many megabytes of dirty pages; a writer appends 1 KiB a
millisecond to a file on it and notes each write elsewhere. Then the filesystem is frozen and thawed,
by one way and by the other in turn, each time on a filesystem and an image that are new: so that the
writeback costs both the same. What counts is the longest time between two writes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests import ledger, scratch

AIM = 0.1
"""Ours is to be at most this part of plain fsfreeze's."""

_VM = Path("/proc/sys/vm")

Way = Callable[[Path], None]
"""Freezes and thaws the filesystem that is mounted at a path."""


@contextlib.contextmanager
def dirty_pages_stay(megabytes: int) -> Iterator[None]:
    """The kernel writes back nothing by itself below ``megabytes``; as before afterwards."""
    with contextlib.ExitStack() as stack:
        for name, value in (
            # Of each pair, setting one makes the other 0, and only what is not 0 is put back.
            ("dirty_background", megabytes << 20),
            ("dirty", (megabytes << 20) + (1 << 30)),
        ):
            for unit in ("bytes", "ratio"):
                place = _VM / f"{name}_{unit}"
                before = place.read_text(encoding="ascii").strip()
                if before != "0":
                    stack.callback(place.write_text, before, encoding="ascii")
            (_VM / f"{name}_bytes").write_text(str(value), encoding="ascii")
        for name in ("dirty_writeback_centisecs", "dirty_expire_centisecs"):
            place = _VM / name
            stack.callback(place.write_text, place.read_text(encoding="ascii").strip(), encoding="ascii")
            place.write_text("360000", encoding="ascii")
        yield


def make_dirty(path: Path, megabytes: int) -> int:
    """Write without syncing; the megabytes that are dirty then, by the kernel's own count."""
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(block)
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("Dirty:"):
            return int(line.split()[1]) >> 10
    return 0


def plain(mount: Path) -> None:
    """fsfreeze -f and -u, right after each other."""
    try:
        subprocess.run(["fsfreeze", "-f", str(mount)], check=True)
    finally:
        thawed = subprocess.run(["fsfreeze", "-u", str(mount)], check=False)
    thawed.check_returncode()


def ours(command: str, folder: Path) -> Way:
    """``app run`` of a policy without an application, handing off to nobody."""

    def cycle(mount: Path) -> None:
        policy = folder / "bench.toml"
        policy.write_text(
            'version = 1\nname = "bench"\nextends = "filesystem"\n'
            f'[freeze]\nmounts = ["{mount}"]\n[snapshot]\nprovider = "none"\n',
            encoding="utf-8",
        )
        environ = {**os.environ, "STILLFRAME_PREFIX": str(folder / "prefix")}
        done = subprocess.run(
            [command, "run", str(policy)], env=environ, capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, 1):
            raise RuntimeError(f"app run ended with {done.returncode}: {done.stderr}{done.stdout}")
        if scratch.thaw(mount):
            raise RuntimeError("app run left the filesystem frozen")

    return cycle


def measure(way: Way, megabytes: int, notes: Path) -> tuple[float, int]:
    """The longest stall (seconds) of one freeze and thaw, and the dirty megabytes before it."""
    # On a real disk, not on tmpfs: what is measured is the writeback.
    with (
        scratch.filesystem("ext4", megabytes * 2 + 512, below=Path("/var/tmp")) as volume,
        ledger.Writer("file", str(volume.mount / "log"), notes=notes) as writer,
    ):
        dirty = make_dirty(volume.mount / "big", megabytes)
        writer.wait_for(50)
        begun = time.monotonic()
        try:
            way(volume.mount)
        finally:
            scratch.thaw(volume.mount)
        ended = time.monotonic()
        writer.wait_for(50)
        return writer.ledger.longest_stall(begun, ended), dirty


def main() -> int:
    """Measure, print the table, and say whether the aim was reached; always 0 once measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1500)
    parser.add_argument("--binary", default=str(Path(sys.executable).with_name("app")))
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("bench: needs root: loop devices, mounts and freezing", file=sys.stderr)
        return 4
    with contextlib.ExitStack() as stack:
        below = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/run")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stillframe-bench-", dir=below)))
        ways: dict[str, Way] = {"fsfreeze": plain, "app run": ours(arguments.binary, folder)}
        stalls: dict[str, list[float]] = {name: [] for name in ways}
        stack.enter_context(dirty_pages_stay(arguments.megabytes * 2))
        print(f"ext4, {arguments.megabytes} MB of dirty pages, longest stall of a writer (seconds)")
        print(f"{'round':>6} {'way':<10} {'dirty MB':>9} {'stall':>8}")
        for number in range(1, arguments.rounds + 1):
            # Each way comes first in every other round.
            for name in sorted(ways, reverse=number % 2 == 0):
                stall, dirty = measure(ways[name], arguments.megabytes, folder / "ledger")
                stalls[name].append(stall)
                print(f"{number:>6} {name:<10} {dirty:>9} {stall:>8.3f}", flush=True)
    medians = {name: statistics.median(values) for name, values in stalls.items()}
    for name, values in stalls.items():
        print(f"median {name:<10} {medians[name]:>18.3f}   ({min(values):.3f} to {max(values):.3f})")
    ratio = medians["app run"] / medians["fsfreeze"]
    print(
        f"ratio {ratio:.4f}: app run's writers stood still {1 / ratio:.0f} times shorter; the aim is {AIM}",
        end=" ",
    )
    print("(reached)" if ratio <= AIM else "(NOT reached)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
