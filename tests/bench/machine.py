"""The machine that figures were taken on, and how quiet it was."""

from __future__ import annotations

import os
import platform
import re
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.writers import Writers

DISK = Path("/var/tmp")
"""Where images and databases are: on a real disk."""

SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Machine:
    """``fsync``: median seconds of a 4 KiB write and fsync on the disk. ``gap``: a writer's, unfrozen."""

    processor: str
    processors: int
    memory_gib: float
    kernel: str
    system: str
    disk: str
    date: str
    load: float
    fsync: float
    gap: float

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        gap = f"longest gap of a writer that nobody freezes {self.gap * 1000:.1f} ms"
        return [
            f"{self.processors} x {self.processor}, {self.memory_gib:.0f} GiB",
            f"{self.system}, Linux {self.kernel}",
            f"disk: {self.disk}; 4 KiB write and fsync {self.fsync * 1000:.2f} ms (median)",
            f"{self.date}; load {self.load:.2f} at the start; {gap}",
        ]


def look() -> Machine:
    """Take some seconds to see what this machine is and how quiet."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="sf-bench-", dir=DISK) as folder:
        return Machine(
            processor=model.group(1) if model else platform.machine(),
            processors=len(os.sched_getaffinity(0)),
            memory_gib=int(memory.group(1)) / (1 << 20) if memory else 0.0,
            kernel=platform.release(),
            system=_system(),
            disk=_disk(folder),
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            load=load,
            fsync=_fsync(Path(folder, "fsync")),
            gap=_gap(Path(folder, "gap")),
        )


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _disk(folder: str) -> str:
    """The block device under a folder, and its filesystem."""
    number = os.stat(folder).st_dev
    place = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    kind = next(
        (
            line.split(" - ")[1].split()[0]
            for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
            if line.split()[2] == f"{os.major(number)}:{os.minor(number)}"
        ),
        "?",
    )
    try:
        size = int((place / "size").read_text(encoding="ascii")) * 512 / 1e9
        cache = place / "queue/write_cache"
        written = f", {cache.read_text(encoding='ascii').strip()}" if cache.exists() else ""
        return f"{place.resolve().name}, {size:.0f} GB{written}, {kind}"
    except (OSError, ValueError):
        return kind


def _fsync(path: Path) -> float:
    seconds = []
    with path.open("wb", buffering=0) as file:
        for _ in range(100):
            begun = time.monotonic()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            seconds.append(time.monotonic() - begun)
    return statistics.median(seconds)


def _gap(path: Path) -> float:
    with Writers([path]) as writers:
        begun = time.monotonic()
        time.sleep(SECONDS)
        ended = time.monotonic()
    return writers.longest_stall(begun, ended)
