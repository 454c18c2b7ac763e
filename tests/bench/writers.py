"""Writers that notice every stall: one thread a file, which appends 1 KiB a millisecond, never synced.

``python -m tests.bench.writers FILE...`` writes until SIGTERM, and then says on stdout, as JSON, when each
write was accepted (CLOCK_MONOTONIC seconds). Nothing is written anywhere else meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests import ledger

PERIOD = 0.001
READY = 20
"""Writes of each thread before it counts as writing."""

MOST = 8
"""Files that are written to at once: more threads than that would measure each other."""


def spread(places: Sequence[Path]) -> list[Path]:
    """At most MOST of them, evenly chosen, the first and the last among them."""
    if len(places) <= MOST:
        return list(places)
    return [places[round(n * (len(places) - 1) / (MOST - 1))] for n in range(MOST)]


class Writers:
    """A process with a thread for each file, from the first writes to the end of the context."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self._accepted: list[list[float]] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.writers", *map(str, self._files)],
            cwd=ledger.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self._process.kill()
            raise RuntimeError("the writers could not begin")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            output, _errors = self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise RuntimeError("the writers still stand still") from None
        self._accepted = json.loads(output)

    def longest_stall(self, since: float, until: float) -> float:
        """The longest time between two writes to one file of which any part lies between; once they ended."""
        return max(
            after - before
            for times in self._accepted
            for before, after in itertools.pairwise(times)
            if after > since and before < until
        )


def _write(path: str, accepted: list[float], stop: threading.Event) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    block = b"x" * 1024
    while not stop.is_set():
        time.sleep(PERIOD)
        os.write(descriptor, block)
        accepted.append(time.monotonic())


def main(paths: Sequence[str]) -> None:
    """Write until SIGTERM."""
    gc.disable()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the bench ends us, once nothing is frozen
    all_accepted: list[list[float]] = [[] for _ in paths]
    for path, accepted in zip(paths, all_accepted, strict=True):
        threading.Thread(target=_write, args=(path, accepted, stop), daemon=True).start()
    while any(len(accepted) < READY for accepted in all_accepted):
        time.sleep(0.01)
    print("ready", flush=True)
    stop.wait()
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(all_accepted))


if __name__ == "__main__":
    main(sys.argv[1:])
