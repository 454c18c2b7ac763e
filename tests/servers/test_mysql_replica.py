"""A real MySQL replica is held: its appliers rest meanwhile, and run again after, if they ran before."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import scratch
from tests.integration.stage import Stage, stage
from tests.integration.strike import LIMIT, strike
from tests.servers import templates
from tests.servers.conftest import full_form
from tests.servers.engines import mysql
from tests.servers.ground import Ground
from tests.servers.load import load
from tests.servers.mysqls import KEEPER, MySQLServer

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

ENGINE, LOCK = mysql.ENGINES
GTID = ("--gtid-mode=ON", "--enforce-gtid-consistency=ON")
APPLIERS = "SELECT GROUP_CONCAT(SERVICE_STATE) FROM performance_schema.replication_applier_status"


@dataclass(frozen=True, slots=True)
class Pair:
    """A source that is written to, and its replica on a filesystem of its own."""

    source: MySQLServer
    replica: MySQLServer
    ground: Ground
    """The replica's."""

    def appliers(self) -> str:
        """ON or OFF."""
        return self.replica.query(APPLIERS).strip()

    def wait_until_applied(self, seconds: float = 30) -> None:
        """Wait until all that the source has now is in the replica. Raises AssertionError."""
        done = self.source.query("SELECT @@global.gtid_executed").strip().replace("\\n", "")
        answer = self.replica.query(f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{done}', {seconds})")
        assert answer == "0\n", self.replica.query("SHOW REPLICA STATUS")

    def wait_until_on(self, since: float) -> float:
        """Seconds since then until the appliers run. Raises AssertionError after law 1's limit and a bit."""
        while self.appliers() != "ON":
            assert time.monotonic() < since + LIMIT + 3, self.appliers()
            time.sleep(0.01)
        return time.monotonic() - since


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    missing = ENGINE.missing()
    if missing:
        pytest.skip(missing)
    port = free_port()
    with contextlib.ExitStack() as stack:
        elsewhere = stack.enter_context(scratch.filesystem("ext4", 1024))
        volume = stack.enter_context(scratch.filesystem("ext4", 1024))
        network = (f"--port={port}", "--bind-address=127.0.0.1", "--server-id=1")
        source = stack.enter_context(ENGINE.instance(elsewhere.mount / "source", True, *network, *GTID))
        source.query("CREATE USER copier@'127.0.0.1' IDENTIFIED BY 'copier'")
        source.query("GRANT REPLICATION SLAVE ON *.* TO copier@'127.0.0.1'")
        data = volume.mount / "replica"
        templates.copied("mysql", data, mysql.install)
        options = ("--server-id=2", "--read-only=ON", *GTID)
        replica = stack.enter_context(ENGINE.instance(data, False, *options))
        replica.query(
            f"CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='copier',"
            " SOURCE_PASSWORD='copier', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1; START REPLICA"
        )
        made = Pair(source, replica, Ground(ENGINE, volume, replica))
        made.wait_until_applied()
        yield made


@pytest.fixture
def here(app_command: list[str], pair: Pair) -> Iterator[Stage]:
    try:
        with stage(app_command) as made:
            yield made
    finally:
        scratch.thaw(pair.ground.volume.mount)
        pair.replica.query("START REPLICA SQL_THREAD")


def of_role(chosen: Path, role: str) -> Path:
    """That policy, for servers of that role."""
    chosen.write_text(chosen.read_text().replace("[settings]", f'role = "{role}"\n[settings]', 1))
    return chosen


def test_snapshot_of_a_replica(here: Stage, pair: Pair) -> None:
    """Under load at the source: the copy holds what had been applied, and the replica catches up."""
    chosen = of_role(pair.ground.snapshot(here), "standby")
    with load(ENGINE, pair.source, here.folder) as writing:
        writing.wait_for(50)
        applied = {entry.number for entry in writing.entries}
        pair.wait_until_applied()
        cycle = here.start("run", "--json", "--quiet", chosen)
        cycle.when("snapshot_begin")
        status = cycle.wait(30)
        writing.wait_for(20)
    (report,) = here.reports()
    assert (status, report["achieved"], report["because"]) == (0, "application", []), report
    (application,) = report["applications"]
    assert application["role"] == "standby"
    assert application["saved"]["appliers"] == "ON"
    (channel,) = json.loads(application["saved"]["replication_channels"])
    assert channel["relay_log_position"] > 0
    assert pair.appliers() == "ON"
    with pair.ground.copy(report) as data:
        status, output, errors = here.app("prove", chosen, "--data", data, "--json")
        assert status == 0, errors + output
        with ENGINE.instance(data, False, "--skip-replica-start", "--server-id=3", *GTID) as copy:
            copy.check()
            found = copy.contents()
            # Without the crash-safe tables of its appliers a copy could not go on from where it was.
            assert copy.query("SELECT COUNT(*) FROM mysql.slave_relay_log_info") == "1\n"
    assert not found.broken
    assert not applied - found.commits
    pair.wait_until_applied()
    assert not pair.replica.contents().broken
    assert {entry.number for entry in writing.entries} <= pair.replica.contents().commits


def test_appliers_rest_during_the_hold(here: Stage, pair: Pair) -> None:
    cycle = here.start("run", "--json", "--quiet", pair.ground.rehearsal(here, 0.6, freeze=False))
    cycle.when("snapshot_begin")
    assert pair.appliers() == "OFF"
    assert cycle.wait(20) == 0
    assert pair.appliers() == "ON"


def test_appliers_that_did_not_run_are_left_alone(here: Stage, pair: Pair) -> None:
    pair.replica.query("STOP REPLICA SQL_THREAD")
    status, report = here.run(pair.ground.rehearsal(here, 0.1, freeze=False))
    assert (status, report["achieved"]) == (0, "application"), report
    assert report["applications"][0]["saved"]["appliers"] == "OFF"
    assert pair.appliers() == "OFF"


@full_form
def test_by_choice_they_go_on(here: Stage, pair: Pair) -> None:
    cycle = here.start("run", "--json", pair.ground.rehearsal(here, 0.6, freeze=False, stop_replica=False))
    cycle.when("snapshot_begin")
    assert pair.appliers() == "ON"
    assert cycle.wait(20) == 0


def test_primary_only(here: Stage, pair: Pair) -> None:
    """A policy for primaries leaves the replica alone: neither lock nor stop, and the report says why."""
    status, report = here.run(of_role(pair.ground.rehearsal(here, 0.1, freeze=False), "primary"))
    assert (status, report["achieved"]) == (1, "crash"), report
    assert "it is a standby now, and the policy is for a primary" in "; ".join(report["because"])
    assert not [e for e in here.events() if e["event"] in ("quiescing", "step")]


@pytest.mark.parametrize(
    "who", ["holder", "client", *(pytest.param(who, marks=full_form) for who in ("keeper", "watchdog"))]
)
def test_killed(here: Stage, pair: Pair, who: str) -> None:
    """What outlives our session is undone by who survives, within law 1's two seconds."""
    cycle = here.start("run", "--json", pair.ground.rehearsal(here, 0.8, freeze=False))
    struck = strike(cycle, who, "mid-hold")
    took = pair.wait_until_on(struck)
    cycle.wait(20)
    assert here.wait_until_free(5) < 3
    assert pair.appliers() == "ON"
    assert took < LIMIT, here.events()
    print(f"{who}: the appliers ran {took:.2f} s after")


def test_session_killed_by_the_server(here: Stage, pair: Pair) -> None:
    cycle = here.start("run", "--json", pair.ground.rehearsal(here, 0.8, freeze=False))
    cycle.when("snapshot_begin")
    pair.replica.break_hold()
    assert cycle.wait(20) == 1
    (report,) = here.reports()
    assert report["achieved"] == "crash"
    assert pair.appliers() == "ON"


@full_form
def test_read_lock_that_is_not_had(here: Stage, pair: Pair) -> None:
    """Stopped, and then no lock: what was stopped is started again."""
    chosen = pair.ground.rehearsal(here, 0.1, freeze=False, mode="ftwrl")
    pair.replica.query(f"REVOKE RELOAD ON *.* FROM {KEEPER}@localhost")
    try:
        status, _ = here.run(chosen)
    finally:
        pair.replica.query(f"GRANT RELOAD ON *.* TO {KEEPER}@localhost")
    assert status == 1
    assert [e for e in here.events() if e["event"] == "step" and e["what"].startswith("STOP REPLICA")]
    assert pair.appliers() == "ON"
