"""A streaming standby of PostgreSQL beside its primary, each on a filesystem of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import scratch
from tests.integration import clusters
from tests.postgres import Postgres
from tests.servers.engines.postgresql import PostgreSQL, PostgresServer
from tests.servers.ground import Ground


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary that is written to, and its standby on a filesystem of its own."""

    primary: PostgresServer
    standby: PostgresServer
    ground: Ground
    """The standby's."""

    def wait_until_replayed(self, seconds: float = 20) -> None:
        """Wait until all that the primary has written by now is replayed. Raises AssertionError."""
        written = self.primary.instance.query("SELECT pg_current_wal_flush_lsn()").strip()
        give_up = time.monotonic() + seconds
        while self.standby.instance.query(f"SELECT pg_last_wal_replay_lsn() >= '{written}'") != "t\n":
            assert time.monotonic() < give_up
            time.sleep(0.02)


@contextlib.contextmanager
def pair(engine: PostgreSQL, settings: str = "", space: str = "") -> Iterator[Pair]:
    """Both run, and nothing is left to replay. ``settings``: further lines of the primary's configuration.

    ``space``: the name of a folder beside each one's data, a tablespace with the writers' ledger in it.
    """
    missing = "needs root" if os.geteuid() != 0 else engine.missing()
    if missing:
        pytest.skip(missing)
    with contextlib.ExitStack() as stack:
        elsewhere = stack.enter_context(scratch.filesystem("ext4", 512))
        volume = stack.enter_context(scratch.filesystem("ext4", 512))
        first, data = elsewhere.mount / "primary", volume.mount / "standby"
        with engine.instance(first, settings=settings) as primary:
            if space:
                make_tablespace(primary, elsewhere.mount / space)
        copy(first, data, space)
        primary = stack.enter_context(engine.instance(first, make=False))
        follow(primary.instance, data, engine)
        standby = stack.enter_context(engine.instance(data, make=False))
        made = Pair(primary, standby, Ground(engine, volume, standby))
        made.wait_until_replayed()
        yield made


def make_tablespace(server: PostgresServer, folder: Path) -> None:
    """A new folder that is a tablespace, with the writers' ledger in it."""
    folder.mkdir(mode=0o700)
    shutil.chown(folder, clusters.USER, clusters.USER)
    server.instance.query(f"CREATE TABLESPACE apart LOCATION '{folder}'")
    server.instance.query("ALTER TABLE ledger SET TABLESPACE apart")


def copy(first: Path, data: Path, space: str) -> None:
    """Copy a server that does not run, with its tablespace of that name beside its data."""
    for source, target in (
        (first, data),
        *([(first.with_name(space), data.with_name(space))] if space else []),
    ):
        subprocess.run(["cp", "--archive", source, target], check=True)
    for link in (data / "pg_tblspc").iterdir():
        link.unlink()
        link.symlink_to(data.with_name(space))


def follow(primary: Postgres, data: Path, engine: PostgreSQL) -> None:
    """Make a copy of the primary one that will stream from it."""
    conninfo = f"host={primary.socket} port={primary.port} user={clusters.USER}"
    if engine.version == "11":
        text = f"standby_mode = on\nprimary_conninfo = '{conninfo}'\n"
        (data / "recovery.conf").write_text(text)
        shutil.chown(data / "recovery.conf", clusters.USER, clusters.USER)
        return
    (data / "standby.signal").touch()
    shutil.chown(data / "standby.signal", clusters.USER, clusters.USER)
    with (data / "postgresql.auto.conf").open("a") as file:
        file.write(f"primary_conninfo = '{conninfo}'\n")
