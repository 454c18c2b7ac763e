"""Dirty pages: made, counted, and kept dirty until somebody writes them back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_VM = Path("/proc/sys/vm")

BLOCK = 1 << 20


@contextlib.contextmanager
def dirty_pages_stay(megabytes: int) -> Iterator[None]:
    """The kernel writes back nothing by itself below ``megabytes``; as before afterwards.

    So that every way begins with the same amount, also one that waits for seconds before it freezes.
    """
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


def make(files: Sequence[Path], megabytes: int) -> int:
    """Write ``megabytes`` in all, spread evenly, without syncing; how many are dirty then, by the kernel."""
    block = os.urandom(BLOCK)
    for number, path in enumerate(files):
        share = megabytes * (number + 1) // len(files) - megabytes * number // len(files)
        with path.open("wb") as file:
            for _ in range(share):
                file.write(block)
    return dirty()


def dirty() -> int:
    """Megabytes (MiB) of dirty pages of the whole machine (proc_meminfo(5))."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("Dirty:"):
            return int(line.split()[1]) >> 10
    return 0
