"""Writes one block of one file again and again, and notes when it had to stand still.

``python pulse.py FILE BEAT STALLS``: BEAT (8 bytes, a double) is when the last write came back, STALLS has a
line, begin and end, for every write that took longer than ``STALL``. CLOCK_MONOTONIC seconds; both on
tmpfs. A freeze holds every write(2) up, a full page cache none of this size. Stands alone.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time

STALL = 0.05
"""Seconds: longer than a write into the page cache takes, also on a machine that is busy."""

PAUSE = 0.002


def pulse(path: str, beat: str, stalls: str) -> None:
    """Write until killed."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    notes = os.open(stalls, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    with open(beat, "w+b") as file:
        file.truncate(mmap.PAGESIZE)
        page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
    block = b"x" * 512
    while True:
        begun = time.monotonic()
        os.pwrite(target, block, 0)
        ended = time.monotonic()
        if ended - begun > STALL:
            os.write(notes, f"{begun:.6f} {ended:.6f}\n".encode())
        page[:8] = struct.pack("d", ended)
        time.sleep(PAUSE)


if __name__ == "__main__":
    pulse(*sys.argv[1:])
