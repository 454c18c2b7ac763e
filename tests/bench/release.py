"""From the start of ``post.sh`` to the first write that is accepted again, against the server's own release.

A compiled pair holds real servers: SQLite, whose writers wait while they are held, and PostgreSQL, whose
backup mode holds up nobody, so that what counts there is when the server is out of it. "The server alone" is
the same release by a client of our own that is connected already: one ROLLBACK, one pg_backup_stop.
"""

from __future__ import annotations

import contextlib
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import ledger, postgres
from tests.bench.machine import DISK
from tests.bench.pair import compiled

HELD = 0.3
"""Seconds from the hold to its release: longer than a writer needs to notice it."""

SQLITE = 'version = 1\nname = "bench"\nextends = "sqlite"\n[settings]\ndatabases = ["{database}"]\n'
POSTGRES = 'version = 1\nname = "bench"\nextends = "postgresql"\n[settings]\nhost = "{host}"\nport = {port}\n'


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of each round. ``ours``: from post.sh's start. ``alone``: from the server's own statement."""

    server: str
    until: str
    ours: Sequence[float]
    alone: Sequence[float]

    @property
    def beyond(self) -> float:
        """How much later, by the medians."""
        return statistics.median(self.ours) - statistics.median(self.alone)

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "server": self.server,
            "until": self.until,
            "post_sh_seconds": list(self.ours),
            "server_alone_seconds": list(self.alone),
            "beyond_seconds": self.beyond,
        }


def sqlite(command: str, folder: Path, rounds: int) -> Latency:
    """A writer of one database on a real disk that asks again every millisecond while it has to wait."""
    ours, alone = [], []
    with tempfile.TemporaryDirectory(prefix="sf-bench-", dir=DISK) as place:
        database = Path(place, "bench.db")
        notes = folder / "notes"
        with ledger.Writer("sqlite", str(database), notes=notes) as writer:
            pair = compiled(command, SQLITE.format(database=database), folder)
            own = sqlite3.connect(database, timeout=0, isolation_level=None)
            for _ in range(rounds):
                pair.pre()
                time.sleep(HELD)
                ours.append(_first_after(writer, pair.post()))
                _locked(own)
                time.sleep(HELD)
                begun = time.monotonic()
                own.execute("ROLLBACK")
                alone.append(_first_after(writer, begun))
            own.close()
    return Latency("SQLite", "the first write is accepted", ours, alone)


def _locked(connection: sqlite3.Connection) -> None:
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError:
            time.sleep(0.0005)


def _first_after(writer: ledger.Writer, moment: float) -> float:
    """Seconds from ``moment`` to the first write that was accepted after it."""
    writer.wait_for(1)
    return next(e.acknowledged - moment for e in writer.ledger.entries if e.acknowledged > moment)


def postgresql(command: str, folder: Path, rounds: int) -> Latency | None:
    """A server of the distribution's with a writer; None where none is installed, or one older than 15."""
    programs = postgres.programs()
    if programs is None or int(programs.parts[-2]) < 15:
        return None
    ours, alone = [], []
    with (
        tempfile.TemporaryDirectory(prefix="sf-bench-", dir=DISK) as place,
        contextlib.ExitStack() as stack,
    ):
        Path(place).chmod(0o755)
        server = stack.enter_context(postgres.server(Path(place, "data")))
        stack.enter_context(ledger.Writer("postgresql", server.conninfo, notes=folder / "notes"))
        policy = POSTGRES.format(host=server.socket, port=server.port)
        pair = compiled(command, policy, folder)
        say = stack.enter_context(_session(server))
        for _ in range(rounds):
            pair.pre()
            time.sleep(HELD)
            begun = pair.post()
            ours.append(pair.event("released") - begun)
            say("SELECT pg_backup_start('bench', true);")
            time.sleep(HELD)
            begun = time.monotonic()
            say("SELECT lsn FROM pg_backup_stop(false);")
            alone.append(time.monotonic() - begun)
    return Latency("PostgreSQL", "backup mode is over", ours, alone)


@contextlib.contextmanager
def _session(server: postgres.Postgres) -> Iterator[Callable[[str], None]]:
    """A psql that stays connected: a statement in, its answer out."""
    argv = ["psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", server.conninfo]
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    ) as process:
        questions, answers = process.stdin, process.stdout
        assert questions is not None
        assert answers is not None

        def say(statement: str) -> None:
            questions.write(f"{statement}\n\\echo error=:ERROR\n")
            questions.flush()
            while not (answer := answers.readline()).startswith("error="):
                if not answer:
                    raise ConnectionError("psql has ended")
            if answer != "error=false\n":
                raise RuntimeError(f"{statement} failed")

        yield say
        questions.close()
