"""MariaDB's noted positions, by use: binary logs replayed on a copy, and copies that become replicas.

What is used is what stands in the manifest inside the copy: who restores has nothing else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.integration.stage import Stage, stage
from tests.servers import binlogs
from tests.servers.binlogs import COPIER, Source
from tests.servers.conftest import full_form
from tests.servers.engines import mariadb
from tests.servers.mysqls import MySQLServer

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

ENGINES = [
    pytest.param(engine, marks=() if engine.main else full_form, id=engine.name) for engine in mariadb.ENGINES
]


@pytest.fixture(scope="module", params=ENGINES)
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    engine: mariadb.MariaDB = request.param
    missing = "needs root" if os.geteuid() != 0 else engine.missing()
    if missing:
        pytest.skip(missing)
    with binlogs.source(engine) as made:
        yield made


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


@contextlib.contextmanager
def copied(here: Stage, source: Source, *options: str) -> Iterator[tuple[MySQLServer, dict[str, str]]]:
    """A copy that runs, taken under load, and what the manifest in it says."""
    _, report = binlogs.snapshot(here, source)
    with source.ground.copy(report) as data:
        noted = source.ground.noted(data)
        assert noted == report["applications"][0]["saved"]
        with binlogs.started(source, data, *options) as copy:
            yield copy, noted


def test_replay(here: Stage, source: Source) -> None:
    """The source's binary logs from the noted position on make the copy what the source has become."""
    with copied(here, source) as (copy, noted):
        before = len(copy.contents().commits)
        binlogs.replay(source.server, copy, noted["binlog_file"], int(noted["binlog_position"]))
        binlogs.check_all_there(source, copy)
        print(f"{source.engine}: {before} commits in the copy, {len(copy.contents().commits)} replayed")


@pytest.mark.parametrize("way", ["gtid", pytest.param("position", marks=full_form)])
def test_replica(here: Stage, source: Source, way: str) -> None:
    """A copy that is told the noted position becomes a replica, and catches up without an error."""
    with copied(here, source, "--server-id=2", "--skip-slave-start") as (copy, noted):
        if way == "gtid":
            copy.query(f"RESET MASTER; SET GLOBAL gtid_slave_pos = '{noted['gtid_binlog_pos']}'")
            where = "MASTER_USE_GTID = slave_pos"
        else:
            file, position = noted["binlog_file"], noted["binlog_position"]
            where = f"MASTER_LOG_FILE = '{file}', MASTER_LOG_POS = {position}, MASTER_USE_GTID = no"
        become = (
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {source.port},"
            f" MASTER_USER = '{COPIER}', MASTER_PASSWORD = '{COPIER}', {where}; START SLAVE"
        )
        binlogs.follow(here, source, copy, become)
