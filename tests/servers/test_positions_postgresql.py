"""PostgreSQL's backup label and tablespace map, by use: recovery to a point, from a copy and an archive.

Label and map are written into the copy byte for byte as they stand beside the snapshot after the release. The
copy is restored to the place of the original, whose tablespaces are found by the map alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import scratch
from tests.integration import clusters
from tests.integration.stage import stage
from tests.servers.conftest import full_form
from tests.servers.engine import Contents
from tests.servers.engines.postgresql import ARGV, PostgreSQL, PostgresServer
from tests.servers.ground import Ground
from tests.servers.load import load
from tests.servers.standbys import make_tablespace, pair

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

POINT = "chosen"
"""A restore point that the primary writes while it is written to."""

SPACE = "täble space"
"""A tablespace's folder, whose path must be kept as it is."""

ENGINES = [
    PostgreSQL("backup"),
    *(pytest.param(PostgreSQL("backup", version), marks=full_form) for version in ("11", "18")),
]


@dataclass(frozen=True, slots=True)
class Site:
    """A primary that archives, and whoever is snapshotted: itself, or its standby."""

    engine: PostgreSQL
    primary: PostgresServer
    on: Ground
    archive: Path

    def wait_until_archived(self) -> None:
        """Wait until all that was written by now is in the archive. Raises AssertionError."""
        name = self.primary.instance.query("SELECT pg_walfile_name(pg_switch_wal())").strip()
        give_up = time.monotonic() + 20
        while not (self.archive / name).exists():
            assert time.monotonic() < give_up, sorted(self.archive.iterdir())
            time.sleep(0.02)


@contextlib.contextmanager
def site(engine: PostgreSQL, of_standby: bool) -> Iterator[Site]:
    """It runs, with a tablespace. Needs root."""
    missing = "needs root" if os.geteuid() != 0 else engine.missing()
    if missing:
        pytest.skip(missing)
    with contextlib.ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="stillframe-archive-", dir="/dev/shm")
        archive = stack.enter_context(folder)
        shutil.chown(archive, clusters.USER, clusters.USER)
        # Whole or not at all: an archive is read while it is written to.
        command = f"cp %p {archive}/%f.new && mv {archive}/%f.new {archive}/%f"
        settings = f"archive_mode = on\narchive_command = '{command}'"
        if of_standby:
            both = stack.enter_context(pair(engine, settings, SPACE))
            yield Site(engine, both.primary, both.ground, Path(archive))
            return
        volume = stack.enter_context(scratch.filesystem("ext4", 512))
        primary = stack.enter_context(engine.instance(volume.mount / "primary", settings=settings))
        make_tablespace(primary, volume.mount / SPACE)
        yield Site(engine, primary, Ground(engine, volume, primary), Path(archive))


@pytest.mark.parametrize(
    "of_standby", [False, pytest.param(True, marks=full_form)], ids=["primary", "standby"]
)
@pytest.mark.parametrize("engine", ENGINES, ids=repr)
def test_recovery_to_a_point(app_command: list[str], engine: PostgreSQL, of_standby: bool) -> None:
    """All that was acknowledged before the chosen point, and nothing that was sent after it."""
    with site(engine, of_standby) as there, stage(app_command) as here:
        with load(engine, there.primary, here.folder) as writing:
            writing.wait_for(30)
            status, report = here.run(there.on.noting(here))
            writing.wait_for(30)
            before = time.monotonic()
            there.primary.instance.query(f"SELECT pg_create_restore_point('{POINT}')")
            after = time.monotonic()
            writing.wait_for(10)
        assert (status, report["achieved"], report["because"]) == (0, "application", []), report
        there.wait_until_archived()
        saved = beside(there)
        assert saved == report["applications"][0]["saved"]
        check_map(there.on, saved)
        if not of_standby:
            check_label(there, saved)
        found = recovered(there, report, saved)
        entries = writing.entries
        (ended,) = (e["t"] for e in here.events() if e["event"] == "snapshot_end")
    assert not found.broken
    must = {e for e in entries if e.acknowledged < before}
    since = {e.number for e in must if e.sent > ended}
    late = {e.number for e in entries if e.sent > after}
    assert since and late
    assert not {e.number for e in must} - found.commits, "acknowledged before the chosen point, and missing"
    assert not late & found.commits, "later than the chosen point"
    print(f"{engine}: {len(found.commits)} commits, {len(since)} of them from after the snapshot")


@full_form
@pytest.mark.parametrize("database", ["postgres", "latin"])
def test_map_in_another_encoding(
    app_command: list[str], monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    """A path is bytes: in the label's map it stands as it is, whatever the database's encoding."""
    engine = ENGINES[0]
    assert isinstance(engine, PostgreSQL)
    with site(engine, False) as there, stage(app_command) as here:
        server = there.primary.instance
        server.query("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        folder = there.primary.data.with_name(os.fsdecode("zw\u00f6lf".encode("latin-1")))
        folder.mkdir(mode=0o700)
        shutil.chown(folder, clusters.USER, clusters.USER)
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
        conninfo = server.conninfo.replace("dbname=postgres", "dbname=latin")
        create = f"CREATE TABLESPACE other LOCATION '{folder}'"
        subprocess.run([*ARGV, "--set=ON_ERROR_STOP=1", f"--command={create}", conninfo], check=True)
        monkeypatch.delenv("PGCLIENTENCODING")
        status, report = here.run(there.on.rehearsal(here, 0.1, freeze=False, database=database))
        assert (status, report["achieved"]) == (0, "application"), report
        saved = as_bytes(report["applications"][0]["saved"]["tablespace_map"])
        links = (there.primary.data / "pg_tblspc").iterdir()
        lines = {os.fsencode(f"{link.name} {link.readlink()}\n") for link in links}
        assert set(saved.splitlines(keepends=True)) == lines and len(lines) == 2


def beside(there: Site) -> dict[str, str]:
    """The answers in the manifest as it stands after the release."""
    found = json.loads(there.on.manifest.read_text())
    assert (found["complete"], found["achieved"]) == (True, "application")
    saved: dict[str, str] = found["applications"][0]["saved"]
    return saved


def as_bytes(text: str) -> bytes:
    """What a saved answer was, byte for byte."""
    return text.encode(errors="surrogateescape")


def check_map(on: Ground, saved: dict[str, str]) -> None:
    """The map is the server's own: one line, of the link that it follows, spaces and all."""
    (link,) = (on.server.data / "pg_tblspc").iterdir()
    assert link.readlink() == on.server.data.with_name(SPACE)
    assert as_bytes(saved["tablespace_map"]) == os.fsencode(f"{link.name} {link.readlink()}\n")


def check_label(there: Site, saved: dict[str, str]) -> None:
    """The label is the server's own: what its archive has of it, byte for byte, but for where it ended."""
    (history,) = there.archive.glob("*.backup")
    lines = history.read_bytes().splitlines(keepends=True)
    assert as_bytes(saved["backup_label"]) == b"".join(x for x in lines if not x.startswith(b"STOP "))


def recovered(there: Site, report: dict[str, Any], saved: dict[str, str]) -> Contents:
    """What is in the copy, in the place of the original, once it has recovered to the point."""
    server = there.on.server
    assert isinstance(server, PostgresServer)
    clusters.stop(server.instance.programs, server.data, "immediate")
    with there.on.copy(report, in_place=True) as data:
        assert there.on.noted(data) == {"start_lsn": saved["start_lsn"]}, "all that was known then"
        for name in ("backup_label", "tablespace_map"):
            put(data / name, as_bytes(saved[name]))
        (link,) = (data / "pg_tblspc").iterdir()
        link.unlink()
        link.symlink_to("/nonexistent")
        log = data.with_name("log")
        put(log, b"")
        with there.engine.instance(data, False, prepared(there, data), log) as copy:
            copy.instance.wait_until_promoted()
            copy.check()
            found = copy.contents()
        # Where the label says that the backup has ended, and no sooner.
        assert f"consistent recovery state reached at {saved['stop_lsn']}\n" in log.read_text()
        assert link.readlink() == data.with_name(SPACE), "the map says where it is"
    return found


def prepared(there: Site, data: Path) -> str:
    """Ask for recovery to the point; what of that stands in postgresql.conf."""
    wanted = (
        f"restore_command = 'cp {there.archive}/%f %p'\n"
        f"recovery_target_name = '{POINT}'\nrecovery_target_action = promote\n"
    )
    for name in ("postmaster.pid", "standby.signal"):
        (data / name).unlink(missing_ok=True)
    if there.engine.version == "11":
        put(data / "recovery.conf", wanted.encode())
        return "archive_mode = off"
    put(data / "recovery.signal", b"")
    return f"archive_mode = off\n{wanted}"


def put(file: Path, content: bytes) -> None:
    """A file of the server's user."""
    file.write_bytes(content)
    shutil.chown(file, clusters.USER, clusters.USER)
