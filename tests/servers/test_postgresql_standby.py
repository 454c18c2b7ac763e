"""A real streaming standby of PostgreSQL: held in backup mode, told from its primary, promoted in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stage import Stage, stage
from tests.servers.conftest import full_form
from tests.servers.engine import Contents
from tests.servers.engines.postgresql import PostgreSQL
from tests.servers.ground import Ground
from tests.servers.load import load
from tests.servers.standbys import Pair, pair

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

ENGINE = PostgreSQL("backup")
OLD = PostgreSQL("backup", "11")


@pytest.fixture(scope="module")
def running() -> Iterator[Pair]:
    with pair(ENGINE) as made:
        yield made


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def of_role(chosen: Path, role: str) -> Path:
    """That policy, for servers of that role."""
    chosen.write_text(chosen.read_text().replace("[settings]", f'role = "{role}"\n[settings]', 1))
    return chosen


def because(report: dict[str, Any]) -> str:
    """All reasons in one."""
    return "; ".join(report["because"])


def check_snapshot(here: Stage, on: Pair, mode: str) -> None:
    """The standby is snapshotted while its primary is written to; what it had replayed is in the copy."""
    chosen = on.ground.snapshot(here)
    chosen.write_text(chosen.read_text().replace('mode = "backup"', f'mode = "{mode}"'))
    engine = on.ground.engine
    assert isinstance(engine, PostgreSQL)
    with load(engine, on.primary, here.folder, run=int(mode == "checkpoint")) as writing:
        writing.wait_for(50)
        replayed = {entry.number for entry in writing.entries}
        on.wait_until_replayed()
        status, report = here.run(of_role(chosen, "standby"))
        writing.wait_for(10)
    assert (status, report["achieved"], report["because"]) == (0, "application", []), report
    (application,) = report["applications"]
    assert application["role"] == "standby"
    if mode == "backup":
        label = application["saved"]["backup_label"].splitlines()
        assert "BACKUP FROM: standby" in label
        assert label[0].startswith(f"START WAL LOCATION: {application['saved']['start_lsn']} ")
    else:
        assert application["saved"].keys() == {"wal_lsn_before", "wal_lsn_after"}
    with on.ground.copy(report) as data:
        status, output, errors = here.app("prove", chosen, "--data", data, "--json")
        assert status == 0, errors + output
        found = promoted(engine, data)
    assert not found.broken
    assert not replayed - found.commits, "what the standby had replayed before is missing"
    late = {e.number for e in writing.entries} - found.commits
    assert late, "the copy has followed the primary"
    on.wait_until_replayed()
    assert not on.standby.contents().broken


def promoted(engine: PostgreSQL, data: Path) -> Contents:
    """What is in a copy of a standby that is started by itself."""
    for name in ("standby.signal", "recovery.conf"):
        (data / name).unlink(missing_ok=True)
    with engine.server(data, make=False) as copy:
        copy.check()
        return copy.contents()


@pytest.mark.parametrize("mode", ["backup", "checkpoint"])
def test_snapshot_of_a_standby(running: Pair, here: Stage, mode: str) -> None:
    check_snapshot(here, running, mode)


@full_form
def test_snapshot_of_an_old_standby(here: Stage) -> None:
    """Until 11 a standby is one by its recovery.conf: a copy must not follow the primary by it."""
    with pair(OLD) as old:
        check_snapshot(here, old, "backup")


def left_alone(here: Stage, chosen: Path, reason: str) -> None:
    """Nothing is done to the server, the level is lowered, and the report says why."""
    status, report = here.run(chosen)
    assert (status, report["achieved"]) == (1, "crash"), report
    assert reason in because(report)
    assert report["applications"][0]["left_alone"]
    assert not [e for e in here.events() if e["event"] in ("quiescing", "step")]


def test_the_primary_is_left_alone(running: Pair, here: Stage) -> None:
    on = Ground(ENGINE, running.ground.volume, running.primary)
    left_alone(
        here,
        of_role(on.rehearsal(here, 0, freeze=False), "standby"),
        "it is a primary now, and the policy is for a standby",
    )


def test_the_standby_is_left_alone(running: Pair, here: Stage) -> None:
    left_alone(
        here,
        of_role(running.ground.rehearsal(here, 0, freeze=False), "primary"),
        "it is a standby now, and the policy is for a primary",
    )


def test_an_optional_standby_never_fails_the_backup(running: Pair, here: Stage) -> None:
    """Left alone and not required: the exit status is that of a success, the level still says what it is."""
    chosen = of_role(running.ground.rehearsal(here, 0, freeze=False), "primary")
    chosen.write_text("version = 1\nrequired = false\n" + chosen.read_text().partition("\n")[2])
    _, report = here.run(chosen)
    assert report["achieved"] == "crash"
    assert report["applications"][0]["left_alone"]


def test_promoted_during_the_hold(here: Stage) -> None:
    """A backup that began on a standby is none once it is a primary; the next cycle sees the new role."""
    with pair(ENGINE) as own:
        cycle = here.start("run", "--json", own.ground.rehearsal(here, 1.5, freeze=False))
        cycle.when("snapshot_begin")
        assert own.standby.instance.query("SELECT pg_promote()") == "t\n"
        assert cycle.wait(20) == 1
        (report,) = here.reports()
        assert report["achieved"] == "crash"
        assert "standby was promoted during online backup" in because(report)
        assert not report["stuck"]
        left_alone(
            here,
            of_role(own.ground.rehearsal(here, 0, freeze=False), "standby"),
            "it is a primary now, and the policy is for a standby",
        )
