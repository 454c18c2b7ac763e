"""MariaDB's noted positions, by use: binary logs replayed on a copy, and copies that become replicas.

What is used is what stands in the manifest inside the copy: who restores has nothing else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests import scratch
from tests.integration.stage import Stage, stage
from tests.servers import binlogs
from tests.servers.binlogs import COPIER, Source
from tests.servers.conftest import full_form
from tests.servers.engines import mariadb
from tests.servers.ground import Ground
from tests.servers.mysqls import CUSTOMER, DATABASE, KEEPER, MySQLServer

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
        binlogs.follow(here, source, copy, become(source, where))


def become(source: Source, where: str) -> str:
    """The statement that makes a server a replica, from there on."""
    return (
        f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {source.port},"
        f" MASTER_USER = '{COPIER}', MASTER_PASSWORD = '{COPIER}', {where}; START SLAVE"
    )


@pytest.fixture
def replica(source: Source) -> Iterator[Ground]:
    """A replica on a filesystem of its own, with all that its source has ever written."""
    engine = source.engine
    assert isinstance(engine, mariadb.MariaDB)
    with (
        scratch.filesystem("ext4", engine.megabytes) as volume,
        engine.instance(volume.mount / "replica", True, "--server-id=2") as server,
    ):
        # As new: the tables and users come from the source.
        server.query(f"DROP DATABASE {DATABASE}; DROP USER {KEEPER}@localhost, {CUSTOMER}@localhost")
        server.query(f"RESET MASTER; {become(source, 'MASTER_USE_GTID = slave_pos')}")
        written = source.server.query("SELECT @@gtid_binlog_pos").strip()
        assert server.query(f"SELECT MASTER_GTID_WAIT('{written}', 60)") == "0\n"
        yield Ground(engine, volume, server)


@full_form
def test_copy_of_a_replica(here: Stage, source: Source, replica: Ground) -> None:
    """Taken while it applies what its source writes, it goes on from the noted ``gtid_slave_pos``.

    A table without a log is left out: what of it a replica has applied is written down only after.
    """
    engine, server = source.engine, replica.server
    assert isinstance(server, MySQLServer)
    with source.ground.under_load(here) as writing:
        writing.wait_for(30)
        status, report = here.run(replica.noting(here))
        writing.wait_for(30)
    assert (status, report["achieved"], report["because"]) == (0, "application", []), report
    with replica.copy(report) as data:
        noted = replica.noted(data)
        options = ("--server-id=3", "--skip-slave-start")
        with binlogs.started(source, data, *options) as copy:
            assert copy.query("SELECT @@gtid_slave_pos").strip() == noted["gtid_slave_pos"] != ""
            copy.query(f"RESET SLAVE ALL; SET GLOBAL gtid_slave_pos = '{noted['gtid_slave_pos']}'")
            binlogs.follow(here, source, copy, become(source, "MASTER_USE_GTID = slave_pos"))
    print(f"{engine}: {noted['gtid_slave_pos']}")
