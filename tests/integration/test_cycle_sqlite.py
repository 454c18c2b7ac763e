"""SQLite in a cycle: both journals, several owners, and databases that cannot be held."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ledger, scratch
from tests.integration.stage import Stage, stage

pytestmark = [pytest.mark.integration]


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def policy(
    here: Stage,
    databases: list[Path],
    extra: str = "",
    quiesce: float = 5,
    retries: int = 0,
    freeze: str = "",
) -> Path:
    """Nothing is frozen unless ``freeze`` says so; the rehearsal counts as synced."""
    return here.policy(
        f'name = "orders"\nextends = "sqlite"\n{extra}\n'
        f"[settings]\ndatabases = {json.dumps([str(d) for d in databases])}\n"
        f"[timing]\nquiesce = {quiesce}\nretries = {retries}\nhold = 65\nrelease = 5\n"
        f'[freeze]\n{freeze or "enabled = false"}\n[snapshot]\nprovider = "none"\nseconds = 0.3\n'
    )


def held(report: dict[str, Any]) -> bool:
    """Whether the one application was held without a break."""
    (application,) = report["applications"]
    return bool(application["held"])


@contextlib.contextmanager
def locked(database: Path, how: str = "EXCLUSIVE") -> Iterator[sqlite3.Connection]:
    """Somebody else's transaction on the database."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute(f"BEGIN {how}")
        yield other


def make(database: Path, journal: str = "wal", owner: str = "") -> Path:
    """A small database, its files owned by ``owner``; a WAL is left beside it."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("CREATE TABLE t (a)")
        connection.commit()
    if owner:
        shutil.chown(database, owner, pwd.getpwnam(owner).pw_gid)
    return database


@pytest.mark.root
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_frozen_copy_misses_no_commit(here: Stage, scratch_ext4: scratch.Volume, journal: str) -> None:
    """What was acknowledged before the hold is in a copy of the image that was made while it was frozen."""
    volume = scratch_ext4
    database, copy, mount = (
        volume.mount / "orders.db",
        volume.image.with_name("copy"),
        volume.image.with_name("restored"),
    )
    chosen = policy(here, [database], freeze=f'mounts = ["{volume.mount}"]\ntimeout = 30')
    snapshot = f'provider = "command"\nargv = ["cp", "--sparse=always", "{volume.image}", "{copy}"]\n'
    chosen.write_text(chosen.read_text().replace('provider = "none"\nseconds = 0.3\n', snapshot))
    notes = here.folder / "ledger"
    with ledger.Writer("sqlite", "--journal", journal, str(database), notes=notes) as writer:
        writer.wait_for(100)
        status, report = here.run(chosen)
        writer.wait_for(20)
        noted = writer.ledger
    assert (status, report["achieved"], report["because"]) == (0, "application", [])
    quiesced = next(float(e["t"]) for e in here.events() if e["event"] == "quiesced")
    mount.mkdir()
    with scratch.mounted(copy, mount, "ext4"):
        assert here.app("prove", chosen, "--data", mount)[0] == 0
        found = ledger.committed_sqlite(mount / "orders.db")
    assert len(noted.acknowledged_before(quiesced)) > 50
    assert not noted.missing_from(found, quiesced)
    assert noted.missing_from(found, float("inf")), "the copy cannot hold what came after it"


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_readers_go_on(here: Stage, tmp_path: Path, journal: str) -> None:
    """Only writers wait; and a writer that does not wait is told that the database is locked."""
    database = make(tmp_path / "a.db", journal)
    cycle = here.start("run", "--json", policy(here, [database]))
    cycle.when("snapshot_begin")
    with contextlib.closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as other:
        assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        assert cycle.wait(10) == 0, cycle.output
        other.execute("INSERT INTO t VALUES (1)")


@pytest.mark.root
def test_several_owners(here: Stage) -> None:
    """Each database is held as its owner; what SQLite makes beside it is the owner's own."""
    databases = []
    for owner in ("root", "nobody", "daemon"):
        folder = here.folder / owner
        folder.mkdir()
        shutil.chown(folder, owner)
        databases.append(make(folder / "own.db", owner=owner))
    keep = [sqlite3.connect(database) for database in databases[1:]]
    try:
        for connection in keep:
            connection.execute("SELECT * FROM t").fetchall()  # as root, so the -shm is root's
        for database in databases[1:]:
            for suffix in ("-wal", "-shm"):
                shutil.chown(f"{database}{suffix}", database.parent.name)
        before = owners(here.folder)
        status, report = here.run(policy(here, databases))
        assert (status, held(report)) == (0, True), report["because"]
        assert owners(here.folder) == before
    finally:
        for connection in keep:
            connection.close()


@pytest.mark.root
def test_no_file_of_roots_is_left_beside_a_database(here: Stage) -> None:
    """A -wal that root made would lock the owner out of his own database."""
    folder = here.folder / "nobody"
    folder.mkdir()
    shutil.chown(folder, "nobody")
    database = make(folder / "own.db", owner="nobody")
    cycle = here.start("run", "--json", policy(here, [database]))
    cycle.when("snapshot_begin")
    assert set(owners(here.folder).values()) == {"nobody"}
    assert cycle.wait(10) == 0, cycle.output
    assert set(owners(here.folder).values()) == {"nobody"}


def owners(folder: Path) -> dict[str, str]:
    """Who owns each database file below a folder."""
    found = sorted(folder.rglob("own.db*"))
    return {str(path): pwd.getpwuid(path.stat().st_uid).pw_name for path in found}


def test_all_or_none(here: Stage, tmp_path: Path) -> None:
    """One of several that is not there: none stays held, and the report names it."""
    present, missing = make(tmp_path / "a.db"), tmp_path / "b.db"
    status, report = here.run(policy(here, [present, missing]))
    assert (status, held(report)) == (1, False)
    assert f"{missing}: No such file or directory" in "; ".join(report["because"])
    with locked(present, "IMMEDIATE"):
        pass


def test_not_a_database(here: Stage, tmp_path: Path) -> None:
    """A file of another kind is left as it is."""
    wrong = tmp_path / "a.db"
    wrong.write_text("these are no pages of a database\n" * 100)
    status, report = here.run(policy(here, [wrong]))
    assert (status, held(report)) == (1, False)
    assert "file is not a database" in "; ".join(report["because"])
    assert wrong.read_text().startswith("these are")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.db"]


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_locked_by_another_writer(here: Stage, tmp_path: Path, journal: str) -> None:
    """Every attempt is made, none lasts longer than its time, and then the reason stands there."""
    database = make(tmp_path / "a.db", journal)
    with locked(database):
        begun = time.monotonic()
        status, report = here.run(policy(here, [database], quiesce=1, retries=2))
        took = time.monotonic() - begun
    assert (status, held(report)) == (1, False)
    assert [e["attempt"] for e in here.events() if e["event"] == "attempt_failed"] == [1, 2, 3]
    assert "locked" in "; ".join(report["because"])
    assert took < 3 * (1 + 1) + 2, "three attempts of a second, and a second between"
    with locked(database, "IMMEDIATE"):
        pass


def test_lock_that_is_let_go_in_time(here: Stage, tmp_path: Path) -> None:
    """A retry that succeeds is as good as a first attempt."""
    database = make(tmp_path / "a.db")
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(locked(database))
        cycle = here.start("run", "--json", policy(here, [database], quiesce=1, retries=2))
        cycle.when("attempt_failed")
        other.execute("ROLLBACK")
        assert cycle.wait(10) == 0, cycle.output
    (report,) = here.reports()
    assert report["applications"][0]["attempts"] == 2


def test_committed_behind_our_back(here: Stage, tmp_path: Path) -> None:
    """A database file that is replaced during the hold was not held."""
    database = make(tmp_path / "a.db")
    cycle = here.start("run", "--json", policy(here, [database]))
    cycle.when("snapshot_begin")
    other = make(tmp_path / "other.db")
    os.rename(other, database)
    assert cycle.wait(10) == 1
    (report,) = here.reports()
    assert not held(report)
    assert "replaced during the hold" in "; ".join(report["because"])
