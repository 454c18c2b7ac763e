"""How long writers stand still, by filesystem, number of filesystems, dirty pages and way."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests import scratch
from tests.bench import dirt
from tests.bench.machine import DISK
from tests.bench.ways import PAIR, Way
from tests.bench.writers import Writers, spread

SMALLEST = 320
"""Megabytes of an image: mkfs.xfs refuses less than 300."""

MOST = 1500
"""Megabytes of dirty pages: what is aimed at is measured with these."""

AFTER = 0.2
"""Seconds that writers go on after the thaw."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is frozen: so many filesystems of a kind, with so many megabytes (MiB) of dirty pages in all."""

    kind: str
    filesystems: int
    megabytes: int
    rounds: int


@dataclass(slots=True)
class Measured:
    """Seconds of one way in one case: the longest stall of any writer, and what was held, a round each."""

    case: Case
    way: str
    dirty: list[int] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)

    @property
    def stall(self) -> float:
        """The median."""
        return statistics.median(self.stalls)

    @property
    def held_median(self) -> float:
        """The median; 0 where the way does not say."""
        return statistics.median(self.held)

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **{key: value for key, value in asdict(self.case).items() if key != "rounds"},
            "way": self.way,
            "dirty_mib": self.dirty,
            "stall_seconds": self.stalls,
            "stall_median": self.stall,
            **({"held_seconds": self.held, "held_median": self.held_median} if any(self.held) else {}),
        }


def cases(*, quick: bool) -> list[Case]:
    """Dirty pages on one filesystem of each kind, then the same in all on several."""
    if quick:
        sizes = [("ext4", 1, 0), ("ext4", 1, MOST), ("ext4", 8, MOST), ("ext4", 32, MOST)]
        return [Case(*size, rounds=2) for size in sizes]
    kinds = ("ext4", "xfs")
    one = [Case(kind, 1, megabytes, 5) for kind in kinds for megabytes in (0, 500, MOST)]
    return one + [Case(kind, number, MOST, 5) for kind in kinds for number in (8, 32)]


@contextlib.contextmanager
def filesystems(case: Case) -> Iterator[list[scratch.Volume]]:
    """Filesystems of the case, on images without a page cache of their own, as disks are.

    Filled once with as much as will be dirty: a disk's blocks are there before they are written to.
    """
    # ext4 gives up delayed allocation, and writes at once, where less is free than half as much again.
    room = case.megabytes // case.filesystems * 3 + SMALLEST
    with contextlib.ExitStack() as stack:
        volumes = [
            stack.enter_context(scratch.filesystem(case.kind, room, below=DISK, direct=True))
            for _ in range(case.filesystems)
        ]
        dirt.make(_big(volumes), case.megabytes)
        os.sync()
        yield volumes


def measure(case: Case, ways: dict[str, Way], say: Callable[[str], None]) -> list[Measured]:
    """Every way in turn, each first in another round; what the pair changes, where there is much to write."""
    names = [name for name in ways if name != PAIR or case.megabytes == MOST]
    measured = {name: Measured(case, name) for name in names}
    with filesystems(case) as volumes:
        for number in range(case.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                one = measured[name]
                begun = time.monotonic()
                dirty, stall, held = _once(volumes, case.megabytes, ways[name])
                one.dirty.append(dirty)
                one.stalls.append(stall)
                one.held.append(held)
                say(
                    f"{case.kind:<5} {case.filesystems:>3} {dirty:>6} {name:<13} {number + 1:>5} "
                    f"{stall * 1000:>10.1f} {held * 1000:>8.1f}   {time.monotonic() - begun:.1f} s"
                )
    return [measured[name] for name in names]


def _once(volumes: Sequence[scratch.Volume], megabytes: int, way: Way) -> tuple[int, float, float]:
    """Dirty megabytes before it, the longest stall, and how long it was held by the way's own account."""
    for path in _big(volumes):
        path.unlink(missing_ok=True)
    os.sync()
    dirty = dirt.make(_big(volumes), megabytes) if megabytes else dirt.dirty()
    mounts = [volume.mount for volume in volumes]
    with Writers([mount / "log" for mount in spread(mounts)]) as writers:
        begun = time.monotonic()
        try:
            held = way(mounts)
        finally:
            left = [mount for mount in mounts if scratch.thaw(mount)]
        ended = time.monotonic()
        time.sleep(AFTER)
    if left:
        raise RuntimeError(f"left frozen: {left}")
    return dirty, writers.longest_stall(begun, ended), held


def _big(volumes: Sequence[scratch.Volume]) -> list[Path]:
    return [volume.mount / "big" for volume in volumes]
