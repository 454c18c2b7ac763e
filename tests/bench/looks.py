"""How long the look for hazards takes on this machine, as every hold begins with it."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.host import hazards
from app.host.mounts import read_mounts
from app.paths import paths
from tests import scratch

AIM = 0.05
"""Seconds: what the look is promised to take at most."""


@dataclass(frozen=True, slots=True)
class Look:
    """Seconds of each look, and what there was to look at."""

    seconds: Sequence[float]
    processes: int
    descriptors: int

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "seconds": list(self.seconds),
            "median": self.median,
            "processes": self.processes,
            "descriptors": self.descriptors,
        }


def measure(rounds: int) -> Look:
    """Look for every hazard, of a hold that would freeze one filesystem, as ``app run`` does."""
    seconds = []
    with scratch.filesystem("ext4", 64) as volume:
        for _ in range(rounds):
            begun = time.monotonic()
            mounts = read_mounts()
            freezing = [mount for mount in mounts if mount.path == str(volume.mount)]
            hazards.find(hazards.Scene(freezing=freezing, mounts=mounts, paths=paths(), timeout=60.0), {})
            seconds.append(time.monotonic() - begun)
    processes = [name for name in os.listdir("/proc") if name.isdigit()]
    return Look(seconds, len(processes), sum(_descriptors(name) for name in processes))


def _descriptors(process: str) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(Path("/proc", process, "fd")))
    return 0
