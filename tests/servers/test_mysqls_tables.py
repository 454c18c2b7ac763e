"""MySQL and MariaDB: tables that do not recover by themselves, and what cannot be held or proven."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import scratch
from tests.integration.stage import Stage, stage
from tests.servers.conftest import full_form, of
from tests.servers.engines import mariadb, mysql
from tests.servers.ground import Ground
from tests.servers.mysqls import CLIENT, DATABASE, KEEPER, MySQLServer, notes

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

STAGES, LOCK = of(mariadb.STAGES), of(mariadb.LOCK)
INSTANCE, MYSQL_LOCK = (of(engine) for engine in mysql.ENGINES)


def server_of(grounded: Ground) -> MySQLServer:
    """The server, as what it is."""
    assert isinstance(grounded.server, MySQLServer)
    return grounded.server


def wait_for_rows(server: MySQLServer, rows: int) -> None:
    """Wait until so many notes are there."""
    give_up = time.monotonic() + 20
    while int(server.query(f"SELECT COUNT(*) FROM {DATABASE}.notes")) < rows:
        assert time.monotonic() < give_up
        time.sleep(0.05)


def because(report: dict[str, object]) -> str:
    """All reasons in one."""
    reasons = report["because"]
    assert isinstance(reasons, list)
    return "; ".join(reasons)


@pytest.mark.parametrize("grounded", [STAGES, of(mariadb.LOCK, only_full=True), MYSQL_LOCK], indirect=True)
def test_myisam_is_whole(grounded: Ground, here: Stage) -> None:
    """A table without a log, written to all the time, is closed and in order in the copy, unrepaired."""
    server, engine = server_of(grounded), grounded.engine
    assert isinstance(engine, (mariadb.MariaDB, mysql.MySQL))
    with notes(server):
        wait_for_rows(server, 100)
        status, report = here.run(grounded.snapshot(here))
        assert (status, report["achieved"]) == (0, "application"), report
        with (
            grounded.copy(report) as data,
            engine.instance(data, False, "--myisam-recover-options=OFF") as copy,
        ):
            checked = copy.query(f"CHECK TABLE {DATABASE}.notes EXTENDED")
            kept = int(copy.query(f"SELECT COUNT(*) FROM {DATABASE}.notes"))
        assert checked == f"{DATABASE}.notes\tcheck\tstatus\tOK\n"
        assert 100 <= kept < int(server.query(f"SELECT COUNT(*) FROM {DATABASE}.notes"))


@pytest.mark.parametrize("grounded", [INSTANCE], indirect=True)
def test_instance_lock_is_refused_for_myisam(grounded: Ground, here: Stage) -> None:
    """The lock lets writers go on: a table without a log would be torn, and so it is named instead."""
    with notes(server_of(grounded)):
        status, report = here.run(grounded.rehearsal(here, 0, freeze=False))
    assert (status, report["achieved"]) == (1, "crash")
    assert f"answered '{DATABASE}.notes is MyISAM'" in because(report)


@pytest.mark.parametrize("grounded", [INSTANCE], indirect=True)
def test_instance_lock_needs_to_see_every_table(grounded: Ground, here: Stage) -> None:
    """Who may not see the tables of a schema cannot say that all of them are InnoDB's."""
    server = server_of(grounded)
    server.query(f"REVOKE REFERENCES ON *.* FROM {KEEPER}@localhost")
    try:
        status, report = here.run(grounded.rehearsal(here, 0, freeze=False))
    finally:
        server.query(f"GRANT REFERENCES ON *.* TO {KEEPER}@localhost")
    assert (status, report["achieved"]) == (1, "crash")
    assert "not every table is seen: grant SELECT or REFERENCES on *.*" in because(report)


@contextlib.contextmanager
def no_redo_log(server: MySQLServer) -> Iterator[None]:
    """InnoDB without its redo log for as long as the context lasts, as for a bulk load."""
    server.query("ALTER INSTANCE DISABLE INNODB REDO_LOG")
    try:
        yield
    finally:
        server.query("ALTER INSTANCE ENABLE INNODB REDO_LOG")


@pytest.mark.parametrize("grounded", [INSTANCE, MYSQL_LOCK], indirect=True)
def test_without_a_redo_log_nothing_is_held(grounded: Ground, here: Stage) -> None:
    """Whatever is locked, a copy of such files recovers nothing."""
    server = server_of(grounded)
    with no_redo_log(server):
        status, report = here.run(grounded.rehearsal(here, 0, freeze=False))
    assert (status, report["achieved"]) == (1, "crash")
    assert "Innodb_redo_log_enabled" in because(report) and "answered 'OFF'" in because(report)
    assert here.run(grounded.rehearsal(here, 0, freeze=False))[0] == 0


@pytest.mark.parametrize("grounded", [INSTANCE, MYSQL_LOCK], indirect=True)
def test_the_redo_log_is_turned_off_in_mid_hold(grounded: Ground, here: Stage) -> None:
    """The instance lock lets nobody do so until the release; what a read lock lets happen is seen."""
    server = server_of(grounded)
    cycle = here.start("run", "--json", grounded.rehearsal(here, 1.5, freeze=False))
    cycle.when("snapshot_begin")
    with no_redo_log(server):
        status = cycle.wait(20)
    (report,) = here.reports()
    if grounded.engine is mysql.ENGINES[0]:
        assert (status, report["achieved"]) == (0, "application"), report
    else:
        assert (status, report["achieved"]) == (1, "crash"), report
        assert "Innodb_redo_log_enabled" in because(report)


@pytest.mark.parametrize("grounded", [STAGES, INSTANCE], indirect=True)
def test_positions(grounded: Ground, here: Stage) -> None:
    """What the report keeps is where the server's binary log stood."""
    server = server_of(grounded)
    status, report = here.run(grounded.rehearsal(here, 0.1, freeze=False))
    assert (status, report["achieved"]) == (0, "application"), report
    is_mysql = grounded.engine.policy == "mysql"
    where = server.query("SHOW BINARY LOG STATUS" if is_mysql else "SHOW MASTER STATUS").split("\t")
    (application,) = report["applications"]
    saved = application["saved"]
    ends = ("_before", "_after") if is_mysql else ("",)
    for end in ends:
        assert [saved[f"binlog_file{end}"], saved[f"binlog_position{end}"]] == where[:2]
        if is_mysql:
            assert saved[f"gtid_executed{end}"] == server.query("SELECT @@global.gtid_executed").strip()
            assert int(saved[f"innodb_lsn{end}"]) > 0
    if not is_mysql:
        assert saved["gtid_binlog_pos"] == server.query("SELECT @@gtid_binlog_pos").strip()
    assert application["role"] == "primary"


@pytest.mark.parametrize("wanted", ["primary", "standby"])
@pytest.mark.parametrize("grounded", [STAGES, INSTANCE], indirect=True)
def test_role(grounded: Ground, here: Stage, wanted: str) -> None:
    """A server of the other role is left alone; the report says what it is."""
    server = server_of(grounded)
    chosen = grounded.rehearsal(here, 0, freeze=False)
    chosen.write_text(chosen.read_text().replace("[settings]", f'role = "{wanted}"\n[settings]', 1))
    for read_only, role in ((0, "primary"), (1, "standby")):
        server.query(f"SET GLOBAL read_only = {read_only}")
        try:
            status, report = here.run(chosen)
        finally:
            server.query("SET GLOBAL read_only = 0")
        (application,) = report["applications"]
        if role == wanted:
            assert (status, report["achieved"], application["role"]) == (0, "application", role), report
        else:
            assert report["achieved"] == "crash"
            assert f"it is a {role} now, and the policy is for a {wanted}" in because(report)
            assert not [e for e in here.events() if e["event"] == "quiescing"]


@pytest.mark.parametrize(("right", "reason"), [("RELOAD", "RELOAD"), ("BINLOG MONITOR", "BINLOG MONITOR")])
@pytest.mark.parametrize("grounded", [STAGES], indirect=True)
def test_without_a_right(grounded: Ground, here: Stage, right: str, reason: str) -> None:
    """The server's own words stand in the report, and nothing is held."""
    server = server_of(grounded)
    server.query(f"REVOKE {right} ON *.* FROM {KEEPER}@localhost")
    try:
        status, report = here.run(grounded.rehearsal(here, 0, freeze=False))
    finally:
        server.query(f"GRANT {right} ON *.* TO {KEEPER}@localhost")
    assert (status, report["achieved"]) == (1, "crash")
    assert "Access denied; you need" in because(report) and reason in because(report)


@full_form
@pytest.mark.parametrize("grounded", [STAGES], indirect=True)
def test_another_backup_is_running(grounded: Ground, here: Stage) -> None:
    """Its stage is waited for as long as the lock timeout says, and then left alone."""
    server = server_of(grounded)
    argv = [server.client, *CLIENT, f"--socket={server.socket}", "--user=root"]
    with subprocess.Popen(
        [*argv, "--execute=BACKUP STAGE START; SELECT SLEEP(6)"], stdout=subprocess.DEVNULL
    ):
        status, report = here.run(grounded.rehearsal(here, 0, freeze=False))
    assert (status, report["achieved"]) == (1, "crash")
    assert "BACKUP STAGE START" in because(report) and "Lock wait timeout exceeded" in because(report)


def test_without_the_lock_plugin(app_command: list[str], as_root: None) -> None:
    """A server that cannot show its locks is still held and proven, by its session."""
    engine = mariadb.STAGES
    if engine.missing():
        pytest.skip(engine.missing())
    with (
        scratch.filesystem("ext4", 512) as volume,
        stage(app_command) as here,
        engine.instance(volume.mount / "data", True, "--metadata-lock-info=OFF") as server,
    ):
        on = Ground(engine, volume, server)
        status, report = here.run(on.rehearsal(here, 0.1, freeze=False))
        proofs = [e["what"] for e in here.events() if e["event"] == "step" and e["proof"]]
    assert (status, report["achieved"]) == (0, "application"), report
    assert report["applications"][0]["saved"]["lock_info"] == "0"
    assert proofs == ["BACKUP STAGE END;"]


@pytest.mark.parametrize("grounded", [STAGES, of(mysql.ENGINES[0], only_full=True)], indirect=True)
def test_a_torn_page_is_found(grounded: Ground, here: Stage) -> None:
    """``app prove`` fails on a copy of which one page was overwritten."""
    engine, chosen = grounded.engine, grounded.snapshot(here)
    status, report = here.run(chosen)
    assert status == 0, report
    with grounded.copy(report) as data:
        with engine.server(data, make=False):
            pass  # recovered, and ended in good order: no log can mend a page any more
        tear(data / DATABASE / "ledger.ibd")
        status, output, errors = here.app("prove", chosen, "--data", data, "--json")
    assert status == 1, errors + output
    assert not json.loads(output)["proven"]


def tear(file: Path) -> None:
    """Overwrite the middle of the root page of the first index (pages are 16 KiB)."""
    for number in (3, 4):
        with file.open("r+b") as pages:
            pages.seek(number * 16384 + 200)
            pages.write(os.urandom(4000))
