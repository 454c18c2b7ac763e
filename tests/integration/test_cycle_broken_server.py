"""PostgreSQL that cannot be held, or is lost: never ``application``, a clear reason, nothing left.

And law 1 with a real server: whoever is killed, backup mode ends and nothing claims the level.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import ledger, postgres, scratch
from tests.integration import clusters
from tests.integration.stage import Stage, first_commit_after, stage, write_probe
from tests.integration.strike import LIMIT, cases, check_claims, last_hold, strike, thaw_is_refused
from tests.integration.test_postgresql import policy
from tests.postgres import Postgres

pytestmark = [pytest.mark.integration, pytest.mark.root]

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stillframe'"

STRUCK = {
    "holder": ("connected", "quiesced", "frozen", "mid-hold"),
    "watchdog": ("quiesced", "mid-hold"),
    "app": ("quiesced", "frozen", "mid-hold"),
    "keeper": ("connected", "quiesced", "frozen", "mid-hold"),
    "client": ("connected", "quiesced", "freezing", "frozen", "mid-hold"),
}
"""Who is killed, and when; ``client`` is psql."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A volume with a running server on it."""

    volume: scratch.Volume
    server: Postgres

    def policy(self, here: Stage, seconds: float = 0.4, retries: int = 0, **settings: Any) -> Path:
        """A rehearsal that freezes the server's volume for so many seconds."""
        found = policy(
            here,
            self.server,
            f'provider = "none"\nseconds = {seconds}',
            f'mounts = ["{self.volume.mount}"]',
            **settings,
        )
        text = found.read_text().replace("retries = 0", f"retries = {retries}")
        found.write_text(text)
        return found


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if postgres.programs() is None or shutil.which("psql") is None:
        pytest.skip("needs a PostgreSQL server and psql")
    with (
        scratch.filesystem("ext4", 512) as volume,
        clusters.cluster(volume.mount / "pg", settings="max_wal_size = 96MB") as server,
    ):
        yield Ground(volume, server)


@pytest.fixture
def here(app_command: list[str], ground: Ground) -> Iterator[Stage]:
    try:
        with stage(app_command) as made:
            yield made
    finally:
        scratch.thaw(ground.volume.mount)


def is_left(here: Stage, ground: Ground) -> bool:
    """Whether a hold, a freeze or a session is left."""
    thawed = thaw_is_refused(ground.volume.mount)
    return here.is_locked() or not thawed or ground.server.query(SESSIONS) != "0\n"


def session_ended(server: Postgres, seconds: float) -> float:
    """When the server knew no session of ours any more. AssertionError after ``seconds``."""
    begun = time.monotonic()
    while server.query(SESSIONS) != "0\n":
        assert time.monotonic() - begun < seconds, server.query("SELECT * FROM pg_stat_activity")
    return time.monotonic()


def because(report: dict[str, Any]) -> str:
    """All reasons in one."""
    return "; ".join(report["because"])


@pytest.mark.slow
@pytest.mark.parametrize(("who", "instant"), cases(STRUCK))
def test_killed(here: Stage, ground: Ground, who: str, instant: str) -> None:
    """Thawed, and backup mode ended with its session, within two seconds; the next cycle succeeds."""
    server, mount = ground.server, ground.volume.mount
    server.query("DROP TABLE IF EXISTS ledger")
    with ledger.Writer("postgresql", server.conninfo, notes=here.folder / "ledger") as writer:
        try:
            cycle = here.start("run", "--json", ground.policy(here))
            struck = strike(cycle, who, instant)
            thawed = write_probe(mount)(LIMIT)
            ended = session_ended(server, LIMIT) - struck
            status = cycle.wait(15)
            assert here.wait_until_free(5) < 3
            written = first_commit_after(writer, last_hold(here.events(), struck), 5) - struck
            assert max(ended, written) < LIMIT, here.events()
            assert not is_left(here, ground)
            check_claims(here, cycle, status, who)
            assert here.run(ground.policy(here, 0))[0] == 0
        finally:
            scratch.thaw(mount)  # a writer that waits for it could not even be killed
    print(f"{who} {instant}: thawed {thawed:.3f} s, session ended {ended:.3f} s, wrote {written:.3f} s after")


def test_session_terminated_by_the_server(here: Stage, ground: Ground) -> None:
    """What an administrator's pg_terminate_backend ends is not claimed, whoever connects afterwards."""
    cycle = here.start("run", "--json", ground.policy(here, 0.8))
    cycle.when("snapshot_begin")
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'stillframe'"
    assert ground.server.query(terminate) == "t\n"
    status = cycle.wait(10)
    (report,) = here.reports()
    assert (status, report["exit"], report["achieved"]) == (1, 1, "filesystem")
    assert "terminating connection due to administrator command" in because(report)
    assert not report["stuck"]
    assert not is_left(here, ground)


def test_server_stopped_during_the_hold(here: Stage, ground: Ground) -> None:
    """A server that goes away takes the claim with it; everything ends in its time."""
    with clusters.cluster(ground.volume.mount / here.folder.name) as server:
        cycle = here.start("run", "--json", Ground(ground.volume, server).policy(here, 0.8))
        cycle.when("snapshot_begin")
        postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGQUIT)  # an immediate shutdown
        status = cycle.wait(10)
        (report,) = here.reports()
        assert (status, report["exit"], report["achieved"]) == (1, 1, "filesystem")
        assert "immediate shutdown" in because(report)
        assert not report["stuck"]
        assert not is_left(here, ground)


def test_wrong_port(here: Stage, ground: Ground) -> None:
    """Tried as often as the policy says, then given up: the level is the filesystem's, and exit 1 says so."""
    status, report = here.run(ground.policy(here, 0, retries=1, port=5999))
    assert (status, report["achieved"]) == (1, "filesystem")
    assert ".s.PGSQL.5999" in because(report)
    assert [e["attempt"] for e in here.events() if e["event"] == "attempt_failed"] == [1, 2]
    assert not is_left(here, ground)


def test_wrong_port_may_fail_the_backup(here: Stage, ground: Ground) -> None:
    """``failure.backup = "fail"``: no snapshot at all, exit 6."""
    chosen = ground.policy(here, 0, port=5999)
    chosen.write_text(chosen.read_text() + '[failure]\nbackup = "fail"\n')
    status, report = here.run(chosen)
    assert (status, report["achieved"]) == (6, "none")
    assert not [e for e in here.events() if e["event"] in ("freezing", "snapshot_begin")]
    assert not is_left(here, ground)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"os_user": "no-such-user"}, "there is no user 'no-such-user' on this machine"),
        ({"psql": "no-such-psql"}, "the program 'no-such-psql' is not there"),
        ({"psql": "/nowhere/psql"}, "the program '/nowhere/psql' is not there"),
        ({"psql": "/bin/true"}, "/bin/true"),
        ({"database": "no-such-database"}, 'database "no-such-database" does not exist'),
        ({"user": "no-such-role"}, 'role "no-such-role" does not exist'),
    ],
)
def test_cannot_connect(here: Stage, ground: Ground, settings: dict[str, Any], reason: str) -> None:
    """The reason stands in the report, in the words of whoever refused."""
    begun = time.monotonic()
    status, report = here.run(ground.policy(here, 0, **settings))
    assert (status, report["achieved"]) == (1, "filesystem")
    assert reason in because(report)
    assert time.monotonic() - begun < 8
    assert not is_left(here, ground)


@pytest.mark.parametrize(
    ("method", "reason"),
    [("peer", "Peer authentication failed"), ("scram-sha-256", "no password supplied")],
)
def test_refused_by_the_server(here: Stage, ground: Ground, method: str, reason: str) -> None:
    """Another OS user under peer authentication, and a password that nobody can type: refused at once."""
    rules = ground.server.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"local all all {method}\n")
    reload: list[str | Path] = [ground.server.programs / "pg_ctl", "-D", ground.server.data, "reload"]
    try:
        clusters.as_server(*reload)
        time.sleep(0.3)
        begun = time.monotonic()
        status, report = here.run(ground.policy(here, 0, os_user="nobody"))
        assert time.monotonic() - begun < 8
    finally:
        rules.write_text(before)
        clusters.as_server(*reload)
        time.sleep(0.3)
    assert (status, report["achieved"]) == (1, "filesystem")
    assert reason in because(report)
    assert not is_left(here, ground)


def test_without_the_right(here: Stage, ground: Ground) -> None:
    """A role that may not use the backup functions is told so; with EXECUTE granted on both it works."""
    server = ground.server
    server.query("CREATE ROLE keeper LOGIN")
    status, report = here.run(ground.policy(here, 0, user="keeper"))
    assert (status, report["achieved"]) == (1, "filesystem")
    assert "permission denied for function pg_backup_start" in because(report)
    server.query(
        "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO keeper"
    )
    assert here.run(ground.policy(here, 0, user="keeper"))[0] == 0
    assert not is_left(here, ground)


def test_client_that_never_answers(here: Stage, ground: Ground) -> None:
    """A psql that hangs is given up at the end of its time, and ended with all that it started."""
    marker = f"{here.folder.name}"
    hanging = here.program("psql", f"#!/bin/sh\nsleep 600 {marker} 2>/dev/null || sleep 600\n")
    chosen = ground.policy(here, 0, psql=str(hanging))
    chosen.write_text(chosen.read_text().replace("quiesce = 20", "quiesce = 1"))
    begun = time.monotonic()
    status, report = here.run(chosen)
    assert time.monotonic() - begun < 6
    assert (status, report["achieved"]) == (1, "filesystem")
    assert "no answer in the time allowed" in because(report)
    assert not processes_below(here, str(hanging))
    assert not is_left(here, ground)


def processes_below(here: Stage, program: str) -> list[str]:
    """Command lines that name a program."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if program in line]
