"""MySQL's positions, by use: binary logs replayed on a copy, and copies that become replicas.

Under a read lock the position is what the manifest in the copy says. Under the instance lock commits go on:
the manifest says where the server stood before, and the copy itself, to ``app prove``, where it stands.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.stage import Stage, stage
from tests.servers import binlogs
from tests.servers.binlogs import COPIER, Source
from tests.servers.conftest import full_form
from tests.servers.engines import mysql
from tests.servers.mysqls import MySQLServer

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow, full_form]

ALL = [
    pytest.param((engine, mode), id=f"{engine.name}-gtid-{mode.lower()}")
    for engine in mysql.ENGINES
    for mode in ("OFF", "ON")
]
"""With identifiers a server leaves out by itself what it has: positions are proven without them."""

WITHOUT, WITH = ALL[::2], ALL[1::2]


def gtid(mode: str) -> tuple[str, str]:
    """Options for transactions with identifiers, or without."""
    return f"--gtid-mode={mode}", f"--enforce-gtid-consistency={mode}"


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    engine, mode = request.param
    missing = "needs root" if os.geteuid() != 0 else engine.missing()
    if missing:
        pytest.skip(missing)
    # The instance lock is for tables with a log; and with identifiers no statement may mix the two.
    with binlogs.source(engine, *gtid(mode), logless=engine.blocks) as made:
        yield made


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


@contextlib.contextmanager
def copied(here: Stage, source: Source, *options: str) -> Iterator[tuple[MySQLServer, dict[str, str]]]:
    """A copy that runs, taken under load, and where it stands: by its manifest, or else by ``app prove``."""
    chosen, report = binlogs.snapshot(here, source)
    with source.ground.copy(report) as data:
        noted = source.ground.noted(data)
        found = proven(here, chosen, data)
        where = {name: found.get(name, "") for name in ("gtid_executed", "binlog_file", "binlog_position")}
        if source.engine.blocks:
            assert {name: noted[name] for name in where} == where
        else:
            check_between(source.server, where, report["applications"][0]["saved"])
            assert not where.keys() & noted.keys(), "it is called what it is not"
        (data / "auto.cnf").unlink()
        with binlogs.started(source, data, *options) as copy:
            yield copy, where


def proven(here: Stage, chosen: Path, data: Path) -> dict[str, str]:
    """What ``app prove`` finds in a copy."""
    status, output, errors = here.app("prove", chosen, "--data", data, "--json")
    assert status == 0, errors + output
    found: dict[str, str] = json.loads(output)["found"]
    return found


def check_between(server: MySQLServer, where: dict[str, str], saved: dict[str, str]) -> None:
    """The copy stands where the server was noted to be before, or after, or in between."""

    def at(end: str) -> tuple[str, int]:
        return saved[f"binlog_file_{end}"], int(saved[f"binlog_position_{end}"])

    assert at("before") <= (where["binlog_file"], int(where["binlog_position"])) <= at("after")
    sets = saved["gtid_executed_before"], where["gtid_executed"], saved["gtid_executed_after"]
    for less, more in itertools.pairwise(sets):
        assert server.query(f"SELECT GTID_SUBSET('{less}', '{more}')") == "1\n"
    print(f"{at('before')} {where} {at('after')}")


@pytest.mark.parametrize("source", WITHOUT, indirect=True)
def test_replay(here: Stage, source: Source) -> None:
    """The source's binary logs from there on make the copy what the source has become."""
    with copied(here, source, *gtid("OFF")) as (copy, where):
        before = len(copy.contents().commits)
        binlogs.replay(source.server, copy, where["binlog_file"], int(where["binlog_position"]))
        binlogs.check_all_there(source, copy)
        print(f"{source.engine}: {before} commits in the copy, {len(copy.contents().commits)} replayed")


@pytest.mark.parametrize("source", ALL, indirect=True)
def test_replica(here: Stage, source: Source) -> None:
    """A copy becomes a replica, by its identifiers or by the position, and catches up without an error."""
    mode = source.server.query("SELECT @@global.gtid_mode").strip()
    with copied(here, source, "--server-id=2", "--skip-replica-start", *gtid(mode)) as (copy, where):
        if mode == "ON":
            assert copy.query("SELECT @@global.gtid_executed").strip() == where["gtid_executed"] != ""
            place = "SOURCE_AUTO_POSITION = 1"
        else:
            file, position = where["binlog_file"], where["binlog_position"]
            place = f"SOURCE_LOG_FILE = '{file}', SOURCE_LOG_POS = {position}"
        become = (
            f"CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {source.port},"
            f" SOURCE_USER = '{COPIER}', SOURCE_PASSWORD = '{COPIER}', GET_SOURCE_PUBLIC_KEY = 1, {place};"
            " START REPLICA"
        )
        binlogs.follow(here, source, copy, become)
