"""What stands outside the program: when volumes took writes, and when writers' commits were accepted."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.matrix import pulse


@dataclass(slots=True)
class Commits:
    """A writer's notes (``NUMBER SENT ACKNOWLEDGED`` a line), read on from where we were."""

    path: Path
    _at: int = 0
    _rest: bytes = b""
    _times: list[tuple[float, float]] = field(default_factory=list)

    def forget(self) -> None:
        """Drop what was read: only what follows is asked for."""
        self._read()
        self._times.clear()

    def between(self, start: float, end: float) -> list[tuple[float, float]]:
        """Commits acknowledged after ``start`` and before ``end``: when each was sent and acknowledged."""
        self._read()
        return [(sent, acked) for sent, acked in self._times if start < acked < end]

    def first_after(self, moment: float, seconds: float) -> float | None:
        """When the first commit after ``moment`` was acknowledged; None if none is within ``seconds``."""
        give_up = time.monotonic() + seconds
        while True:
            self._read()
            found = next((acked for _, acked in self._times if acked > moment), None)
            if found is not None or time.monotonic() > give_up:
                return found
            time.sleep(0.005)

    def _read(self) -> None:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
            self._at += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                _, sent, acknowledged = line.split()
                self._times.append((float(sent), float(acknowledged)))


@dataclass(slots=True)
class Pulse:
    """A process that writes to a volume all the time."""

    beat: Path
    stalls: Path
    process: subprocess.Popen[bytes]

    def stood_still(self) -> list[tuple[float, float]]:
        """Every time it stood still: begin and end, the end being infinity for one that lasts."""
        found = []
        if self.stalls.exists():
            found = [(float(a), float(b)) for a, b in (line.split() for line in self._lines())]
        last: float = struct.unpack("d", self.beat.read_bytes()[:8])[0]
        if time.monotonic() - last > 4 * pulse.STALL:
            found.append((last, float("inf")))
        return found

    def forget(self) -> None:
        """Drop what was noted."""
        if self.stalls.exists():
            os.truncate(self.stalls, 0)

    def _lines(self) -> list[str]:
        return self.stalls.read_text(encoding="ascii").rpartition("\n")[0].splitlines()


@contextlib.contextmanager
def pulsing(volume: Path, notes: Path) -> Iterator[Pulse]:
    """A pulse on the volume mounted there; its notes go to the folder ``notes``."""
    beat, stalls = notes / f"beat-{volume.parent.name}", notes / f"stalls-{volume.parent.name}"
    argv = [sys.executable, "-IS", pulse.__file__, str(volume / "pulse"), str(beat), str(stalls)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 20
        while not beat.exists() or len(beat.read_bytes()) < 8:
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.01)
        yield Pulse(beat, stalls, process)
    finally:
        process.kill()
        process.wait(10)
