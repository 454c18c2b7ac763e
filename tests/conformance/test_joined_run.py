"""``app run`` with ``azure-backup``: its hold serves the backup that the extension makes meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.pair import Stage
from tests.conformance.safe_freeze import LOCK
from tests.conformance.script_host import Backup

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def safe_freeze_lock(azure: Path) -> Iterator[None]:
    """The extension's lock, as it is held around freeze, snapshot and thaw."""
    path = azure / LOCK
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        time.sleep(0.2)
        yield


@contextlib.contextmanager
def run_beside(stage: Stage, wait: float = 20) -> Iterator[subprocess.Popen[str]]:
    """An ``app run`` that holds and waits for the extension."""
    stage.compile()
    policy = stage.folder / "policy.toml"
    policy.write_text(
        policy.read_text()
        + f'\n[snapshot]\nprovider = "azure-backup"\nconfig = "{stage.azure}"\nwait = {wait}\n'
    )
    argv = [*stage.app_command, "run", "--json", "--quiet", str(policy)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as running:
        journal = stage.prefix / "run/stillframe/journal"
        end = time.monotonic() + 20
        while not journal.exists() or '"snapshot_begin"' not in journal.read_text():
            assert running.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        yield running


def report_of(running: subprocess.Popen[str]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(running.communicate(timeout=30)[0])
    return report


def test_the_backup_is_served_by_the_hold_that_runs(stage: Stage) -> None:
    with run_beside(stage) as running:
        result = stage.backup(freeze=lambda seconds: safe_freeze_lock(stage.azure))
        assert result.backup is Backup.APPLICATION
        assert result.error is None
        report = report_of(running)
    assert (running.returncode, report["achieved"]) == (0, "application")
    assert report["snapshot"]["state"] == "taken"
    assert not stage.is_held()


def test_a_hold_that_breaks_fails_the_backup_that_joined_it(stage: Stage) -> None:
    with run_beside(stage) as running:

        def kill() -> None:
            os.kill(stage.processes()["client"], signal.SIGKILL)
            time.sleep(0.5)

        @contextlib.contextmanager
        def freeze(seconds: float) -> Iterator[None]:
            with safe_freeze_lock(stage.azure):
                kill()
                yield

        result = stage.backup(freeze=freeze)
        assert result.error == "Post-ScriptExecutionFailed"
        report = report_of(running)
    assert running.returncode != 0
    assert report["achieved"] != "application"
    assert not stage.is_held()


def test_a_backup_that_comes_when_the_hold_is_over_is_not_vouched_for(stage: Stage) -> None:
    """It joins just before ``app run`` gives up waiting for the extension."""
    with run_beside(stage) as running:

        @contextlib.contextmanager
        def freeze(seconds: float) -> Iterator[None]:
            os.kill(running.pid, signal.SIGINT)
            running.wait(10)
            with safe_freeze_lock(stage.azure):
                yield

        result = stage.backup(freeze=freeze)
    assert result.error == "Post-ScriptExecutionFailed"
    assert not stage.is_held()


def test_a_backup_whose_turn_came_after_the_waiting_is_not_vouched_for(stage: Stage) -> None:
    with run_beside(stage, wait=4) as running:

        @contextlib.contextmanager
        def freeze(seconds: float) -> Iterator[None]:
            report = report_of(running)
            assert (report["achieved"], report["because"]) == (
                "none",
                ["no snapshot: the Azure Backup extension did not come while the applications were held"],
            )
            with safe_freeze_lock(stage.azure):
                yield

        result = stage.backup(freeze=freeze)
    assert result.error == "Post-ScriptExecutionFailed"
