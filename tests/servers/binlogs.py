"""The binary logs of MariaDB and MySQL, used from a position on: replayed, or read by a replica."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import scratch
from tests.integration.stage import Stage
from tests.servers.daemon import free_port
from tests.servers.engines.mariadb import MariaDB
from tests.servers.engines.mysql import MySQL
from tests.servers.ground import Ground
from tests.servers.mysqls import CLIENT, DATABASE, NOTES, MySQLServer, taking_notes

COPIER = "copier"
"""The user of replicas, whose password is the same word."""

HASTY = ("--sync-binlog=0", "--innodb-flush-log-at-trx-commit=0")
"""Options for a copy, which is to be quick and is thrown away."""

SUMS = (
    f"SELECT COUNT(*), COUNT(DISTINCT body), SUM(CRC32(CONCAT(id, body))) FROM {DATABASE}.notes",
    f"SELECT COUNT(*), SUM(number), SUM(CRC32(CONCAT(number, body))) FROM {DATABASE}.ledger",
    f"SELECT GROUP_CONCAT(CONCAT(id, '=', balance) ORDER BY id) FROM {DATABASE}.accounts",
)
"""Two servers that answer these alike hold the same rows, each of them once."""


@dataclass(frozen=True, slots=True)
class Source:
    """A server with binary logs that replicas may read, on a filesystem of its own."""

    engine: MariaDB | MySQL
    server: MySQLServer
    ground: Ground
    port: int


@contextlib.contextmanager
def source(engine: MariaDB | MySQL, *options: str, logless: bool = True) -> Iterator[Source]:
    """It runs, with the writers' tables and that of the notes, which is ``logless`` or not. Needs root."""
    port = free_port()
    network = ("--skip-networking=0", f"--port={port}", "--bind-address=127.0.0.1", "--server-id=1")
    with (
        scratch.filesystem("ext4", engine.megabytes) as volume,
        engine.instance(volume.mount / engine.name, True, *network, *options) as server,
    ):
        server.query(NOTES if logless else NOTES.replace("MyISAM", "InnoDB"))
        server.query(f"CREATE USER {COPIER}@'127.0.0.1' IDENTIFIED BY '{COPIER}'")
        server.query(f"GRANT REPLICATION SLAVE ON *.* TO {COPIER}@'127.0.0.1'")
        yield Source(engine, server, Ground(engine, volume, server), port)


def snapshot(here: Stage, source: Source) -> tuple[Path, dict[str, Any]]:
    """The policy and report of one, taken while the source is written to; later commits are in two files."""
    chosen = source.ground.noting(here)
    with source.ground.under_load(here) as writing, taking_notes(source.server):
        writing.wait_for(30)
        status, report = here.run(chosen)
        writing.wait_for(10)
        source.server.query("FLUSH BINARY LOGS")
        writing.wait_for(10)
    assert (status, report["achieved"], report["because"]) == (0, "application", []), report
    return chosen, report


@contextlib.contextmanager
def started(source: Source, data: Path, *options: str) -> Iterator[MySQLServer]:
    """The copy in ``data``, which runs and is behind its source."""
    with source.engine.instance(data, False, *HASTY, *options) as copy:
        assert not copy.contents().broken
        assert sums(copy) != sums(source.server)
        yield copy


def check_all_there(source: Source, copy: MySQLServer) -> None:
    """Every acknowledged commit is in the copy, and every row once. Raises AssertionError."""
    found = copy.contents()
    assert not found.broken
    assert source.ground.acknowledged_before(float("inf")) <= found.commits
    assert sums(copy) == sums(source.server)
    copy.check()


def sums(server: MySQLServer) -> list[str]:
    """What it holds, to be compared with another."""
    return [server.query(query) for query in SUMS]


def replay(origin: MySQLServer, copy: MySQLServer, file: str, position: int) -> None:
    """Replay the origin's binary logs, from that position of that file on. Raises AssertionError."""
    names = [line.split("\t")[0] for line in origin.query("SHOW BINARY LOGS").splitlines()]
    assert file in names, names
    logs = [origin.data / name for name in names[names.index(file) :]]
    beside = Path(copy.client).with_name("mysqlbinlog")
    program = beside if beside.exists() else "mysqlbinlog"
    argv = [program, "--no-defaults", f"--start-position={position}", *logs]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reading:
        typing = [copy.client, *CLIENT, f"--socket={copy.socket}", "--user=root"]
        done = subprocess.run(typing, stdin=reading.stdout, capture_output=True, text=True)
        assert reading.stdout is not None and reading.stderr is not None
        reading.stdout.close()  # or it would wait for ever for a client that has given up
        said = reading.stderr.read().decode()
    assert (done.returncode, reading.returncode) == (0, 0), (done.stderr, said)


def follow(here: Stage, source: Source, copy: MySQLServer, statement: str) -> None:
    """Make the copy a replica by that statement; it catches up with a source that is written to meanwhile.

    Raises AssertionError, at once on an error of the replica's.
    """
    copy.query(statement)
    with source.ground.under_load(here) as writing:
        writing.wait_for(30)
    _wait_until_same(source.server, copy, "SLAVE" if "MASTER" in statement else "REPLICA")
    check_all_there(source, copy)


def _wait_until_same(origin: MySQLServer, copy: MySQLServer, words: str, seconds: float = 60) -> None:
    wanted = sums(origin)
    give_up = time.monotonic() + seconds
    while (found := sums(copy)) != wanted:
        status = _status(copy, words)
        wrong = {name: said for name, said in status.items() if name.endswith("_Error") and said}
        assert not wrong, wrong
        assert time.monotonic() < give_up, (found, wanted, status)
        time.sleep(0.1)
    running = {name: said for name, said in _status(copy, words).items() if name.endswith("_Running")}
    assert list(running.values()) == ["Yes", "Yes"], running


def _status(copy: MySQLServer, words: str) -> dict[str, str]:
    argv = [copy.client, "--no-defaults", "--batch", f"--socket={copy.socket}", "--user=root"]
    done = subprocess.run([*argv, f"--execute=SHOW {words} STATUS"], capture_output=True, text=True)
    names, values = done.stdout.splitlines()
    return dict(zip(names.split("\t"), values.split("\t"), strict=True))
