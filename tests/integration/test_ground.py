"""The tests' own ground: scratch filesystems, the ledger and the PostgreSQL server do what they say."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import ledger, postgres, scratch

pytestmark = [pytest.mark.integration]


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_second_freeze_is_busy_and_the_volume_goes_away_frozen_or_not(kind: str) -> None:
    with scratch.filesystem(kind) as volume:
        scratch.freeze(volume.mount)
        with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
            scratch.freeze(volume.mount)
        assert scratch.is_frozen(volume.mount)
        assert scratch.thaw(volume.mount)
        assert not scratch.is_frozen(volume.mount)
        scratch.freeze(volume.mount)
    assert not volume.image.exists()
    assert str(volume.mount) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")


@pytest.mark.root
def test_what_a_killed_run_left_frozen_is_swept() -> None:
    leave = (
        "import os, signal\nfrom tests import scratch\nwith scratch.filesystem('ext4', 64) as volume:\n"
        "    scratch.freeze(volume.mount)\n    print(volume.mount, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", leave], cwd=ledger.ROOT, capture_output=True, text=True)
    mount = Path(killed.stdout.strip())
    assert mount.is_mount(), killed.stderr
    scratch.sweep()
    assert not mount.parent.exists()


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_every_acknowledged_sqlite_commit_is_found(tmp_path: Path, on_tmpfs: Path, journal: str) -> None:
    database = tmp_path / "orders.db"
    with ledger.Writer("sqlite", "--journal", journal, str(database), notes=on_tmpfs / "ledger") as writer:
        writer.wait_for(50)
        noted = writer.ledger
    assert not noted.missing_from(ledger.committed_sqlite(database), before=float("inf"))
    assert noted.missing_from(set(), before=noted.entries[3].acknowledged) == {1, 2, 3}


@pytest.mark.root
def test_a_freeze_is_seen_as_a_stall(scratch_ext4: scratch.Volume, on_tmpfs: Path) -> None:
    with ledger.Writer("file", str(scratch_ext4.mount / "log"), notes=on_tmpfs / "ledger") as writer:
        start = time.monotonic()
        scratch.freeze(scratch_ext4.mount)
        try:
            time.sleep(0.5)
        finally:
            scratch.thaw(scratch_ext4.mount)
        writer.wait_for(10)
        assert 0.4 < writer.ledger.longest_stall(start, time.monotonic()) < 5


@pytest.mark.root
def test_a_server_on_a_scratch_filesystem_keeps_every_commit(
    scratch_ext4: scratch.Volume, on_tmpfs: Path, make_postgres: Callable[[Path], postgres.Postgres]
) -> None:
    if shutil.which("psql") is None:
        pytest.skip("needs psql")
    running = make_postgres(scratch_ext4.mount / "pg")
    with ledger.Writer("postgresql", running.conninfo, notes=on_tmpfs / "ledger") as writer:
        writer.wait_for(50)
        noted = writer.ledger
    assert not noted.missing_from(running.committed(), before=float("inf"))
    assert running.query("SHOW fsync") == "on\n"
