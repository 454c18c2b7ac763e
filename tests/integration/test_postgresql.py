"""PostgreSQL, for real: no commit that was acknowledged before the hold is missing from the snapshot.

The server's data directory is on a scratch filesystem and its writer's ledger on another. What the
snapshot holds is looked at twice: by ``app prove``, and by a server of our own.
"""

from __future__ import annotations

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

from tests import ledger, postgres, scratch
from tests.integration import clusters
from tests.integration.stage import Event, Stage, stage
from tests.postgres import Postgres

pytestmark = [pytest.mark.integration, pytest.mark.root]


@dataclass(frozen=True, slots=True)
class Ground:
    """A volume with a running, archiving server on it."""

    volume: scratch.Volume
    server: Postgres
    archive: Path


@pytest.fixture(scope="module", autouse=True)
def needed() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if postgres.programs() is None or shutil.which("psql") is None:
        pytest.skip("needs a PostgreSQL server and psql")


@pytest.fixture(scope="module")
def ground(needed: None) -> Iterator[Ground]:
    with (
        scratch.filesystem("ext4", 512) as volume,
        tempfile.TemporaryDirectory(prefix="stillframe-archive-", dir="/dev/shm") as archive,
    ):
        shutil.chown(archive, clusters.USER, clusters.USER)
        settings = f"archive_mode = on\narchive_command = 'cp %p {archive}/%f'\nmax_wal_size = 96MB"
        with clusters.cluster(volume.mount / "pg", settings=settings) as server:
            yield Ground(volume, server, Path(archive))


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def policy(here: Stage, server: Postgres, snapshot: str, mounts: str, **settings: Any) -> Path:
    """An operator's policy for this server."""
    values = {"host": str(server.socket), "port": server.port, "os_user": server.user, **settings}
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    return here.policy(
        f'name = "orders"\nextends = "postgresql"\n[settings]\n{lines}\n'
        f"[timing]\nquiesce = 20\nretries = 0\nhold = 40\nrelease = 10\n"
        f"[freeze]\n{mounts}\ntimeout = 30\n[snapshot]\n{snapshot}\n"
    )


def at(events: list[Event], name: str) -> float:
    """When an event happened."""
    return float(next(e["t"] for e in events if e["event"] == name))


def check_copy(here: Stage, chosen: Path, data: Path, noted: ledger.Ledger, before: float) -> set[int]:
    """Start the copy by ``app prove``, then by ourselves; its commits. None before that time is missing."""
    status, output, errors = here.app("prove", chosen, "--data", data, "--json")
    assert status == 0, errors + output
    assert json.loads(output)["proven"]
    with clusters.cluster(data, make=False, settings="archive_mode = off") as restored:
        found = restored.committed()
    acknowledged = noted.acknowledged_before(before)
    assert len(acknowledged) > 50
    assert not noted.missing_from(found, before)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["backup", "checkpoint"])
def test_frozen_copy_misses_no_commit(here: Stage, ground: Ground, mode: str) -> None:
    """ext4, frozen while a command copies the image below it."""
    server, volume = ground.server, ground.volume
    server.query("DROP TABLE IF EXISTS ledger")
    copy, mount = volume.image.with_name(f"copy-{mode}"), volume.image.with_name(f"restored-{mode}")
    chosen = policy(
        here,
        server,
        f'provider = "command"\nargv = ["cp", "--sparse=always", "{volume.image}", "{copy}"]',
        f'mounts = ["{volume.mount}"]',
        mode=mode,
    )
    with ledger.Writer("postgresql", server.conninfo, notes=here.folder / "ledger") as writer:
        writer.wait_for(100)
        status, report = here.run(chosen)
        writer.wait_for(20)
        noted, events = writer.ledger, here.events()
    assert (status, report["achieved"], report["because"]) == (0, "application", [])
    (application,) = report["applications"]
    assert application["server_version"] >= 150000
    assert application["variant"].startswith(mode)
    mount.mkdir()
    second = copy.with_suffix(".second")
    subprocess.run(["cp", "--sparse=always", copy, second], check=True)
    with scratch.mounted(copy, mount, "ext4"):
        found = check_copy(here, chosen, mount / "pg", noted, at(events, "quiesced"))
        late = {e.number for e in noted.entries if e.sent > at(events, "thawed")}
        assert late and not late & found, "the copy holds what was written after the snapshot"
    if mode == "backup":
        copied = application["saved"]
        check_label(server, ground.archive, copied)
        with scratch.mounted(second, mount, "ext4"):
            found = restore_by_label(ground, mount / "pg", copied)
        # The stop came after all that was acknowledged before the release.
        assert not noted.missing_from(found, at(events, "releasing"))
    else:
        assert set(application["saved"]) == {"wal_lsn_before", "wal_lsn_after"}
    for path in (copy, second):
        path.unlink()
    print(f"{mode}: {len(noted.entries)} commits, {len(found)} of them in the copy")


def wait_for_archive(archive: Path, *names: str) -> None:
    """Wait until those files are archived."""
    give_up = time.monotonic() + 20
    while not all((archive / name).exists() for name in names):
        assert time.monotonic() < give_up, sorted(archive.iterdir())
        time.sleep(0.02)


def check_label(server: Postgres, archive: Path, saved: dict[str, str]) -> None:
    """What the report keeps is the server's own label: held against the history file in its archive."""
    assert set(saved) == {"start_lsn", "stop_lsn", "backup_label", "tablespace_map"}
    start, stop = saved["start_lsn"], saved["stop_lsn"]
    assert server.query(f"SELECT '{stop}'::pg_lsn > '{start}'::pg_lsn") == "t\n"
    segment = server.query(f"SELECT pg_walfile_name('{start}')").strip()
    server.query("SELECT pg_switch_wal()")
    name = f"{segment}.{int(start.partition('/')[2], 16) & 0xFFFFFF:08X}.backup"
    wait_for_archive(archive, name, server.query(f"SELECT pg_walfile_name('{stop}')").strip())
    history = (archive / name).read_bytes().splitlines(keepends=True)
    label = saved["backup_label"].encode().splitlines(keepends=True)
    own = [line for line in history if not line.startswith(b"STOP ")]
    assert label == own
    assert label[0] == f"START WAL LOCATION: {start} (file {segment})\n".encode()
    assert any(line.startswith(f"STOP WAL LOCATION: {stop} ".encode()) for line in history)
    assert b"LABEL: stillframe\n" in label
    assert saved["tablespace_map"] == ""


def restore_by_label(ground: Ground, data: Path, saved: dict[str, str]) -> set[int]:
    """Point-in-time recovery: the saved label in the copy, and the archive up to the stop."""
    label = data / "backup_label"
    for name in ("backup_label", "tablespace_map"):
        if saved[name]:
            (data / name).write_bytes(saved[name].encode())
    (data / "recovery.signal").touch()
    for path in (label, data / "recovery.signal"):
        shutil.chown(path, clusters.USER, clusters.USER)
    (data / "postmaster.pid").unlink(missing_ok=True)
    stop = saved["stop_lsn"]
    settings = (
        f"archive_mode = off\nrestore_command = 'cp {ground.archive}/%f %p'\n"
        f"recovery_target_lsn = '{stop}'\nrecovery_target_action = promote"
    )
    log = data.parent / "log"
    log.touch()
    shutil.chown(log, clusters.USER, clusters.USER)
    with clusters.cluster(data, make=False, settings=settings, log=log) as restored:
        found = restored.committed()
    assert f"redo starts at {saved['start_lsn']}" in log.read_text()
    assert "consistent recovery state reached" in log.read_text()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["backup", "checkpoint"])
def test_btrfs_snapshot_misses_no_commit(here: Stage, scratch_btrfs: scratch.Volume, mode: str) -> None:
    """btrfs, snapshotted by itself, nothing frozen; what is started is a writable clone."""
    volume, snapshots = scratch_btrfs.mount / "data", scratch_btrfs.mount / "snapshots"
    subprocess.run(["btrfs", "-q", "subvolume", "create", volume], check=True)
    snapshots.mkdir(mode=0o700)
    with clusters.cluster(volume / "pg") as server:
        chosen = policy(
            here,
            server,
            f'provider = "btrfs"\nsource = "{volume}"\ndestination = "{snapshots}"',
            "enabled = false",
            mode=mode,
        )
        with ledger.Writer("postgresql", server.conninfo, notes=here.folder / "ledger") as writer:
            writer.wait_for(100)
            status, report = here.run(chosen)
            writer.wait_for(20)
            noted, events = writer.ledger, here.events()
    assert (status, report["achieved"], report["because"]) == (0, "application", [])
    snapshots.chmod(0o755)  # the server's user must reach its clone
    clone = snapshots / "clone"
    argv = ["btrfs", "-q", "subvolume", "snapshot", report["snapshot"]["reference"], clone]
    subprocess.run(argv, check=True)
    check_copy(here, chosen, clone / "pg", noted, at(events, "quiesced"))


@pytest.mark.slow
@pytest.mark.parametrize("version", clusters.VERSIONS)
def test_version(here: Stage, scratch_ext4: scratch.Volume, version: str) -> None:
    """Each version's own functions and label, on real servers; the short form takes the oldest only."""
    if version != "11" and os.environ.get("STILLFRAME_TEST_SERVERS") != "full":
        pytest.skip("of the full form only: make test-servers")
    programs = clusters.programs_of(version)
    if isinstance(programs, str):
        pytest.skip(programs)
    with clusters.cluster(scratch_ext4.mount / "pg", programs=programs) as server:
        mounts = f'mounts = ["{scratch_ext4.mount}"]'
        with ledger.Writer("postgresql", server.conninfo, notes=here.folder / "ledger") as writer:
            writer.wait_for(50)
            status, report = here.run(policy(here, server, 'provider = "none"\nseconds = 0.3', mounts))
            writer.wait_for(10)
    assert (status, report["achieved"], report["because"]) == (0, "application", [])
    (application,) = report["applications"]
    assert application["server_version"] // 10000 == int(version)
    is_old = int(version) < 15
    assert application["variant"] == f"backup mode, PostgreSQL {'11 to 14' if is_old else '15 and later'}"
    label = application["saved"]["backup_label"].splitlines()
    assert label[0].startswith(
        f"START WAL LOCATION: {application['saved']['start_lsn']} (file 0000000100000000"
    )
    assert "BACKUP METHOD: streamed" in label
    assert "LABEL: stillframe" in label
