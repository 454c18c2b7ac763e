"""The load: several writers at once, each a process that notes its acknowledged commits elsewhere."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.ledger import Entry, Ledger, Writer
from tests.servers.engine import Engine, Server
from tests.servers.transfers import WRITERS, first_number


@dataclass(frozen=True, slots=True)
class Load:
    """Writers that run; what they noted so far."""

    writers: tuple[Writer, ...]

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """One a writer."""
        return tuple(writer.ledger for writer in self.writers)

    @property
    def entries(self) -> list[Entry]:
        """Those of all writers."""
        return [entry for each in self.ledgers for entry in each.entries]

    def wait_for(self, more: int, seconds: float = 30) -> None:
        """Wait until every writer had ``more`` further commits acknowledged. Raises AssertionError."""
        for writer in self.writers:
            writer.wait_for(more, seconds)

    def longest_stall(self, since: float = 0.0, until: float = float("inf")) -> float:
        """Longest seconds between two commits of any writer, of which any part lies between the two times."""
        return max(each.longest_stall(since, until) for each in self.ledgers)

    def first_after(self, moment: float, seconds: float) -> float:
        """When the first commit sent at or after ``moment``, or waiting then, was acknowledged after it.

        CLOCK_MONOTONIC seconds, of the writer that waited longest: they all write again. Raises
        AssertionError where one does not within ``seconds`` from now.
        """
        give_up = time.monotonic() + seconds
        while True:
            later = [
                [e.acknowledged for e in each.entries if e.acknowledged > moment] for each in self.ledgers
            ]
            if all(later):
                return max(each[0] for each in later)
            assert time.monotonic() < give_up, f"not every writer's commit within {seconds} s"
            time.sleep(0.005)


@contextlib.contextmanager
def load(engine: Engine, server: Server, notes: Path, run: int = 0, writers: int = WRITERS) -> Iterator[Load]:
    """Write to a server for as long as the context lasts. ``notes``: a folder on another filesystem.

    ``run``: no two loads on the same data may have the same; their numbers follow from it.
    """
    with contextlib.ExitStack() as stack:
        started = [
            Writer(
                "server",
                engine.name,
                json.dumps(server.target()),
                f"--first={first_number(run, number)}",
                notes=notes / f"ledger-{engine.name}-{run}-{number}",
            )
            for number in range(writers)
        ]
        for writer in started:
            stack.enter_context(writer)
        yield Load(tuple(started))
