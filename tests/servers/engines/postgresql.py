"""PostgreSQL as the distribution has it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import postgres
from tests.integration import clusters
from tests.servers import sql
from tests.servers.engine import Commit, Contents, Engine, Server

ARGV = ["psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password"]


class PostgresServer(Server):
    """One cluster."""

    def __init__(self, instance: postgres.Postgres, mode: str) -> None:
        self.data = instance.data
        self.instance = instance
        self._mode = mode

    def settings(self) -> dict[str, Any]:
        there = self.instance
        return {"host": str(there.socket), "port": there.port, "os_user": there.user, "mode": self._mode}

    def target(self) -> dict[str, Any]:
        return {"conninfo": self.instance.conninfo}

    def contents(self) -> Contents:
        return sql.contents(self._rows)

    def check(self) -> None:
        there = self.instance
        argv = [str(there.programs / "pg_amcheck"), "--all", "--install-missing", "--heapallindexed"]
        argv += [f"--host={there.socket}", f"--port={there.port}", "--username=postgres"]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ""), (done.stdout, done.stderr)

    def break_hold(self) -> str:
        ours = "FROM pg_stat_activity WHERE application_name = 'stillframe'"
        assert self.instance.query(f"SELECT pg_terminate_backend(pid) {ours}") == "t\n"
        return "terminating connection due to administrator command"

    def _rows(self, query: str) -> list[list[str]]:
        return [line.split("|") for line in self.instance.query(query).splitlines()]


class PostgreSQL(Engine):
    """In one of the policy's modes."""

    policy = "postgresql"
    blocks = False

    def __init__(self, mode: str, *, main: bool = False) -> None:
        self.name = f"postgresql-{mode}"
        self.main = main
        self._mode = mode

    def missing(self) -> str:
        there = postgres.programs() is not None and shutil.which("psql") is not None
        return "" if there else "needs a PostgreSQL server and psql"

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        with clusters.cluster(data, make=make, settings="max_wal_size = 96MB") as instance:
            if make:
                for statement in sql.TABLES:
                    instance.query(statement)
            yield PostgresServer(instance, self._mode)

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        yield from sql.typed(
            [*ARGV, "--set=ON_ERROR_STOP=1", target["conninfo"]],
            "\\echo ok {number}",
            ["SET client_min_messages = error"],
        )


ENGINES = (PostgreSQL("backup", main=True), PostgreSQL("checkpoint"))
