"""PostgreSQL as the distribution has it, and every version that the policy is for."""

from __future__ import annotations

import contextlib
import os
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

AMCHECK = (
    "CREATE EXTENSION IF NOT EXISTS amcheck",
    (
        "SELECT count(bt_index_parent_check(i.indexrelid, true)::text) FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam"
        " WHERE a.amname = 'btree' AND c.relpersistence <> 't' AND i.indisvalid"
    ),
)
"""What pg_amcheck does, for servers that come without it: every btree against its table."""

# A proof by statements alone: of most other versions there is no pg_dumpall here.
_PROVE = """\
[[prove.engine]]
mechanism = "session"
send = "{amcheck[0]};"
[[prove.engine]]
mechanism = "session"
send = "{amcheck[1]};"
expect = '^[0-9]+$'
"""


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
        if not (there.programs / "pg_amcheck").exists():
            assert int([there.query(statement) for statement in AMCHECK][-1]) > 50
            return
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
    """In one of the policy's modes; of the installed version, or of another one, by its number."""

    policy = "postgresql"
    blocks = False

    def __init__(self, mode: str, version: str = "", *, main: bool = False) -> None:
        self.name = f"postgresql{version}-{mode}"
        self.main = main
        self._mode = mode
        self.version = version

    def missing(self) -> str:
        if shutil.which("psql") is None:
            return "needs psql"
        found = self._programs()
        if isinstance(found, str):
            return found
        return "" if found else "needs a PostgreSQL server"

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        with self.instance(data, make) as server:
            yield server

    @contextlib.contextmanager
    def instance(
        self, data: Path, make: bool = True, settings: str = "", log: Path | None = None
    ) -> Iterator[PostgresServer]:
        """The same, with further lines for its postgresql.conf, and a log of the test's."""
        programs = self._programs()
        assert isinstance(programs, Path)
        lines = f"max_wal_size = 96MB\n{settings}"
        with clusters.cluster(data, programs=programs, make=make, settings=lines, log=log) as instance:
            if make:
                for statement in sql.TABLES:
                    instance.query(statement)
            yield PostgresServer(instance, self._mode)

    def operator(self, server: Server, name: str = "", **settings: Any) -> str:
        head = super().operator(server, name, **settings)
        if not self.version:
            return head
        programs = self._programs()
        assert isinstance(programs, Path)
        head += f'[prove]\npath = ["{programs}"]\n'
        return head if (programs / "pg_dumpall").exists() else head + _PROVE.format(amcheck=AMCHECK)

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        yield from sql.typed(
            [*ARGV, "--set=ON_ERROR_STOP=1", target["conninfo"]],
            "\\echo ok {number}",
            ["SET client_min_messages = error"],
        )

    def _programs(self) -> Path | str | None:
        return clusters.programs_of(self.version) if self.version else postgres.programs()


_VERSIONS = clusters.VERSIONS if os.environ.get("STILLFRAME_TEST_SERVERS") == "full" else ("11",)

ENGINES = (
    PostgreSQL("backup", main=True),
    PostgreSQL("checkpoint"),
    *(PostgreSQL("backup", version) for version in _VERSIONS),
)
