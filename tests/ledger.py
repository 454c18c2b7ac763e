"""Who wrote what when: a writer that notes every acknowledged commit, and the reader of its notes.

The writer is a process of its own (``python -m tests.ledger``). It commits as fast as it can and
appends one line for each acknowledged commit, with the times (CLOCK_MONOTONIC, seconds) at which
it was sent and acknowledged, to a file on **another** filesystem. What that file says was
acknowledged before a hold must be in every snapshot taken during it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Entry:
    """One acknowledged commit: its number, and when it was sent and acknowledged."""

    number: int
    sent: float
    acknowledged: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a writer noted, in order."""

    entries: tuple[Entry, ...]

    @staticmethod
    def read(path: Path) -> Ledger:
        """The ledger so far. A last line that is still being written is left out."""
        whole, _, _ = path.read_text(encoding="ascii").rpartition("\n")
        fields = (line.split() for line in whole.splitlines())
        return Ledger(tuple(Entry(int(n), float(sent), float(acked)) for n, sent, acked in fields))

    def acknowledged_before(self, moment: float) -> set[int]:
        """Numbers of the commits that were acknowledged before ``moment``."""
        return {entry.number for entry in self.entries if entry.acknowledged < moment}

    def longest_stall(self, start: float = 0.0, end: float = float("inf")) -> float:
        """Longest time between two acknowledgements of which any part lies between start and end."""
        gaps = (b.acknowledged - a.acknowledged for a, b in self.pairs(start, end))
        return max(gaps, default=0.0)

    def pairs(self, since: float = 0.0, until: float = float("inf")) -> Iterator[tuple[Entry, Entry]]:
        """Each two commits that follow each other, of which any part lies between since and until."""
        for a, b in itertools.pairwise(self.entries):
            if b.acknowledged > since and a.acknowledged < until:
                yield a, b

    def missing_from(self, found: set[int], before: float) -> set[int]:
        """Commits acknowledged before ``before`` that are not among those ``found`` in a copy."""
        return self.acknowledged_before(before) - found


def committed_sqlite(database: Path) -> set[int]:
    """Numbers of the commits in a copy of the writer's SQLite database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return {number for (number,) in connection.execute("SELECT number FROM ledger")}


class Writer:
    """A writer process, from its first acknowledged commit to the end of the context.

    ``what`` is ``sqlite DATABASE``, ``postgresql CONNINFO``, ``file PATH`` or ``server ENGINE TARGET``
    (an engine of ``tests.servers`` and its server's target as JSON); ``notes`` must be on another
    filesystem than the one that is written to.
    """

    def __init__(self, *what: str, notes: Path, environ: Mapping[str, str] | None = None) -> None:
        self.notes = notes
        self._argv = [sys.executable, "-m", "tests.ledger", *what, str(notes)]
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.notes.write_bytes(b"")
        self._process = subprocess.Popen(
            self._argv, cwd=ROOT, env=self._environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            self.wait_for(10)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    @property
    def ledger(self) -> Ledger:
        """What was noted so far."""
        return Ledger.read(self.notes)

    def wait_for(self, more: int, seconds: float = 20) -> None:
        """Wait until ``more`` further commits were acknowledged. Raises AssertionError where none come."""
        want = len(self.ledger.entries) + more
        give_up = time.monotonic() + seconds
        while len(self.ledger.entries) < want:
            assert self._process is not None
            assert self._process.poll() is None, f"the writer ended with {self._process.returncode}"
            assert time.monotonic() < give_up, f"no {more} further commits within {seconds} s"
            time.sleep(0.01)


# --- the writer's own side -------------------------------------------------------------------------


def _sqlite(database: str, journal: str) -> Iterator[Callable[[int], None]]:
    connection = sqlite3.connect(database, timeout=0, isolation_level=None)
    _patiently(connection, f"PRAGMA journal_mode={journal}")
    _patiently(connection, "CREATE TABLE IF NOT EXISTS ledger (number INTEGER PRIMARY KEY, body BLOB)")

    def commit(number: int) -> None:
        _patiently(connection, "BEGIN IMMEDIATE")
        connection.execute("INSERT INTO ledger VALUES (?, randomblob(200))", (number,))
        _patiently(connection, "COMMIT")

    with contextlib.closing(connection):
        yield commit


def _patiently(connection: sqlite3.Connection, statement: str) -> None:
    # A busy_timeout sleeps for up to 100 ms at a time: too coarse for what is measured here.
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            time.sleep(0.001)


def _postgresql(conninfo: str) -> Iterator[Callable[[int], None]]:
    argv = ["psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password", conninfo]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as psql:
        sent, answers = psql.stdin, psql.stdout
        assert sent is not None
        assert answers is not None

        def say(statement: str) -> None:
            sent.write(f"{statement}\n\\echo error=:ERROR\n")
            sent.flush()
            answer = answers.readline()
            if answer != "error=false\n":
                raise ConnectionError(f"psql said {answer!r} to {statement}")

        say("SET client_min_messages = error;")
        say("CREATE TABLE IF NOT EXISTS ledger (number bigint PRIMARY KEY, body text);")
        yield lambda number: say(f"INSERT INTO ledger VALUES ({number}, repeat('x', 200));")
        sent.close()


def _file(path: str) -> Iterator[Callable[[int], None]]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    block = b"x" * 1024

    def write(number: int) -> None:
        # One a millisecond, never synced: what a log does.
        time.sleep(0.001)
        os.write(descriptor, block)

    try:
        yield write
    finally:
        os.close(descriptor)


def _server(engine: str, target: str) -> Iterator[Callable[[int], None]]:
    from tests.servers.engines import engine as find

    return find(engine).commits(json.loads(target))


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.ledger")
    kinds = parser.add_subparsers(dest="kind", required=True)
    targets = {"sqlite": "database", "postgresql": "conninfo", "file": "path", "server": "target"}
    for kind, target in targets.items():
        one = kinds.add_parser(kind)
        if kind == "sqlite":
            one.add_argument("--journal", default="wal", choices=["wal", "delete"])
        elif kind == "server":
            one.add_argument("engine")
            one.add_argument("--first", type=int, default=0, help="the number before the first one")
        one.add_argument("--pause", type=float, default=0.0, help="seconds between two commits")
        one.add_argument("target", metavar=target)
        one.add_argument("notes")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Write until SIGTERM; end after the commit that is under way."""
    arguments = _arguments(argv)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    if arguments.kind == "sqlite":
        opened = _sqlite(arguments.target, arguments.journal)
    elif arguments.kind == "postgresql":
        opened = _postgresql(arguments.target)
    elif arguments.kind == "server":
        opened = _server(arguments.engine, arguments.target)
    else:
        opened = _file(arguments.target)
    notes = os.open(arguments.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    with contextlib.contextmanager(lambda: opened)() as commit:
        number = getattr(arguments, "first", 0)
        while not stopped:
            number += 1
            sent = time.monotonic()
            commit(number)
            acknowledged = time.monotonic()
            os.write(notes, f"{number} {sent:.6f} {acknowledged:.6f}\n".encode())
            if arguments.pause:
                time.sleep(arguments.pause)


if __name__ == "__main__":
    main(sys.argv[1:])
