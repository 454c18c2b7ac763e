"""Backups that a server makes of itself lie in the snapshot: each is restored by the vendor's own means.

They hold all that was acknowledged before they were begun.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stage import Event, Stage
from tests.servers.conftest import of
from tests.servers.engines import etcd, firebird, influxdb
from tests.servers.ground import Ground

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]


def begun(events: list[Event], words: str) -> float:
    """When the step was begun whose description has those words: when the one before it was done."""
    times = [
        (e["t"], e.get("what", ""))
        for e in events
        if e["event"] in ("quiescing", "step") and "verify" not in e
    ]
    at = next(number for number, (_, what) in enumerate(times) if words in what)
    return float(times[at - 1][0])


@contextlib.contextmanager
def snapshot(grounded: Ground, here: Stage, words: str) -> Iterator[tuple[Path, set[int]]]:
    """The data folder of a copy, and the commits acknowledged before the step of those words began."""
    with grounded.under_load(here) as writing:
        writing.wait_for(30)
        status, report = here.run(grounded.snapshot(here))
        writing.wait_for(5)
    assert (status, report["achieved"]) == (0, "application"), report["because"]
    must = grounded.acknowledged_before(begun(here.events(), words))
    assert len(must) > 30
    with grounded.copy(report) as data:
        yield data, must


@pytest.mark.parametrize("grounded", [of(etcd.ENGINES[0])], indirect=True)
def test_etcd(grounded: Ground, here: Stage) -> None:
    """A new cluster from ``stillframe.db`` alone."""
    with snapshot(grounded, here, "snapshot save") as (data, must):
        assert not (grounded.server.data / "stillframe.db").exists(), "left behind on the live server"
        made = data.with_name("restored-from-backup")
        status = json.loads(
            etcd.control(etcd.offline(), "snapshot", "status", str(data / "stillframe.db"), "-w", "json")
        )
        saved = here.reports()[0]["applications"][0]["saved"]
        assert status["revision"] == int(saved["backup_revision"]) >= int(saved["revision_before"])
        argv = ["snapshot", "restore", str(data / "stillframe.db"), f"--data-dir={made}", "--name=default"]
        argv += ["--initial-cluster=default=unix://peer:1", "--initial-advertise-peer-urls=unix://peer:1"]
        etcd.control(etcd.offline(), *argv)
        for path in (made, *made.rglob("*")):
            shutil.chown(path, etcd.USER, etcd.USER)
        with grounded.engine.server(made, make=False) as copy:
            found = copy.contents()
    assert not found.broken
    assert not must - found.commits


@pytest.mark.parametrize("grounded", [of(influxdb.ENGINES[1])], indirect=True)
def test_influxdb(grounded: Ground, here: Stage, tmp_path: Path) -> None:
    """A new server from ``stillframe-backup`` alone."""
    with snapshot(grounded, here, "influxd backup") as (data, must):
        assert not (grounded.server.data / "stillframe-backup").exists(), "left behind on the live server"
        empty = grounded.volume.mount / "empty"
        with grounded.engine.server(empty) as other:
            assert isinstance(other, influxdb.InfluxServer)
            other.query(f"DROP DATABASE {influxdb.DATABASE}")
            backup = str(data / "stillframe-backup")
            argv = ["influxd", "restore", "-portable", "-host", other.control, backup]
            subprocess.run(argv, check=True, capture_output=True)
        # A shard that was restored into a running server is disabled for a moment: it answers nothing.
        with grounded.engine.server(empty, make=False) as other:
            found = other.contents()
    assert not found.broken
    assert not must - found.commits


@pytest.mark.parametrize("grounded", [of(firebird.ENGINES[0])], indirect=True)
def test_firebird(grounded: Ground, here: Stage) -> None:
    """The database's file alone, without what was committed during the hold.

    What was under way when it was locked may leave space unused, which gfix warns of: no error.
    """
    with snapshot(grounded, here, "BEGIN BACKUP") as (data, must):
        (data / f"{firebird.FILE}.delta").unlink()
        file = str(data / firebird.FILE)
        as_owner: dict[str, Any] = {"user": firebird.USER, "group": firebird.USER, "extra_groups": []}
        subprocess.run(["nbackup", "-F", file], check=True, capture_output=True, **as_owner)
        with grounded.engine.server(data, make=False) as copy:
            copy.check()
            found = copy.contents()
    assert not found.broken
    assert not must - found.commits
