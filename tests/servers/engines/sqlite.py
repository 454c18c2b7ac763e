"""SQLite: no server, but writers in processes of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.servers import sql
from tests.servers.engine import Commit, Contents, Engine, Server

FILE = "money.db"


class Database(Server):
    """One database file in a folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.file = data / FILE

    def settings(self) -> dict[str, Any]:
        return {"databases": [str(self.file)]}

    def target(self) -> dict[str, Any]:
        return {"file": str(self.file)}

    def contents(self) -> Contents:
        with contextlib.closing(sqlite3.connect(self.file, timeout=10)) as connection:
            return sql.contents(lambda query: _texts(connection.execute(query).fetchall()))

    def check(self) -> None:
        argv = ["sqlite3", str(self.file), "PRAGMA integrity_check; PRAGMA foreign_key_check;"]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", ""), done

    def break_hold(self) -> str:
        raise AssertionError(SQLite.unbreakable)


class SQLite(Engine):
    """With one kind of journal."""

    policy = "sqlite"
    blocks = True
    unbreakable = "SQLite has no server: nobody but the holder can end its transaction"

    def __init__(self, journal: str, *, main: bool = False) -> None:
        self.name = f"sqlite-{journal}"
        self.main = main
        self._journal = journal

    def missing(self) -> str:
        return "" if shutil.which("sqlite3") else "needs sqlite3"

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        if make:
            data.mkdir(mode=0o700)
            with contextlib.closing(sqlite3.connect(data / FILE)) as connection:
                connection.execute(f"PRAGMA journal_mode={self._journal}")
                for statement in sql.TABLES:
                    connection.execute(statement)
                connection.commit()
        yield Database(data)

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        connection = sqlite3.connect(target["file"], timeout=0, isolation_level=None)
        _patiently(connection, "PRAGMA synchronous=FULL")

        def commit(number: int) -> None:
            _patiently(connection, "BEGIN IMMEDIATE")
            for statement in sql.statements(number):
                connection.execute(statement)
            _patiently(connection, "COMMIT")

        with contextlib.closing(connection):
            yield commit


def _texts(rows: Sequence[Sequence[object]]) -> list[list[str]]:
    return [list(map(str, row)) for row in rows]


def _patiently(connection: sqlite3.Connection, statement: str) -> None:
    # A busy_timeout sleeps for up to 100 ms at a time: too coarse for what is measured here.
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            time.sleep(0.001 + 0.002 * os.urandom(1)[0] / 255)


ENGINES = (SQLite("wal", main=True), SQLite("delete"))
