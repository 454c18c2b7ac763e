"""Compiled pairs under the re-created script host: every row of its table, its ten errors.

The database is real SQLite; "held" is always asked of the database itself, never of ``app``.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from app.errors import FRAMEWORK_ERRORS
from tests.conformance.pair import OWN, SHELLS, Stage, found_by_verify, needs, reported
from tests.conformance.script_host import Backup

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("shell", SHELLS)
def test_all_succeed(stage: Stage, shell: str) -> None:
    stage.compile()
    held: list[bool] = []
    sh = needs(shell)
    with stage.host(sh, snapshot=lambda: held.append(stage.is_held())) as host:
        result = host.backup()
        assert (result.backup, result.error) == (Backup.APPLICATION, None), stage.log("pre")
        assert held == [True]
        for run in (result.pre, result.post):
            assert run is not None
            assert not run.pipes_held()
            assert run.output == b""
    assert not stage.is_held()
    assert stage.report()["achieved"] == "application"


def test_no_pipe_is_held_while_the_hold_stands(stage: Stage) -> None:
    stage.compile()
    held: list[bool] = []
    host = stage.host(["sh"])
    host.snapshot = lambda: held.append(host.runs[0].pipes_held())
    with host:
        assert host.backup().backup is Backup.APPLICATION
    assert held == [False]


def test_several_backups_one_after_the_other(stage: Stage) -> None:
    stage.compile()
    for _ in range(3):
        assert stage.backup().backup is Backup.APPLICATION
        assert not stage.is_held()


def test_config_missing(stage: Stage) -> None:
    stage.compile()
    (stage.azure / "VMSnapshotScriptPluginConfig.json").unlink()
    result = stage.backup()
    assert (result.backup, result.error, result.pre) == (Backup.FILESYSTEM, None, None)
    assert found_by_verify(stage) == "None"


@pytest.mark.parametrize("keep_going", ["continue", "fail"])
@pytest.mark.parametrize(
    ("path", "fault", "name"),
    [
        ("VMSnapshotScriptPluginConfig.json", "mode", "IncorrectJSONConfigFile"),
        ("VMSnapshotScriptPluginConfig.json", "text", "IncorrectJSONConfigFile"),
        ("VMSnapshotPluginHost.conf", "text", "IncorrectPluginhostFile"),
        ("stillframe/pre.sh", "mode", "InsufficientPermissionforPre-Script"),
        ("stillframe/post.sh", "mode", "InsufficientPermissionforPost-Script"),
        ("stillframe/pre.sh", "missing", "Pre-ScriptNotFound"),
        ("stillframe/post.sh", "missing", "Post-ScriptNotFound"),
    ],
)
def test_check_fails(stage: Stage, path: str, fault: str, name: str, keep_going: str) -> None:
    stage.compile(failure=f'backup = "{keep_going}"')
    place = stage.azure / path
    if fault == "missing":
        place.unlink()
    elif fault == "mode":
        place.chmod(0o755)
    else:
        place.write_text("not what it should be")
        place.chmod(0o600)
    result = stage.backup()
    assert reported(result) == name
    # What verify says before is what the framework says afterwards.
    assert found_by_verify(stage) == name
    assert (result.pre, result.post) == (None, None)
    read = not name.startswith("Incorrect")
    assert result.backup is (Backup.FAILED if read and keep_going == "fail" else Backup.FILESYSTEM)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("keep_going", ["continue", "fail"])
def test_pre_fails(stage: Stage, shell: str, keep_going: str) -> None:
    stage.compile(failure=f'backup = "{keep_going}"')
    stage.database.unlink()
    result = stage.backup(needs(shell))
    assert reported(result) == "Pre-ScriptExecutionFailed"
    assert result.backup is (Backup.FILESYSTEM if keep_going == "continue" else Backup.FAILED)
    assert result.snapshot == (keep_going == "continue")
    # The post-script runs all the same, and has nothing to complain about: nothing was held.
    assert result.post is not None
    assert result.post.status == 0, stage.log("post")


def test_pre_refuses_what_was_changed(stage: Stage) -> None:
    stage.compile()
    (stage.azure / "stillframe/plan.json").chmod(0o644)
    result = stage.backup()
    assert reported(result) == "Pre-ScriptExecutionFailed"
    assert "mode 644, want 600" in stage.log("pre")
    assert not stage.is_held()


def test_busy_application_is_given_up_in_time(stage: Stage) -> None:
    stage.compile()
    writer = stage.connect()
    writer.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    result = stage.backup()
    # By its own clock, long before the extension's.
    assert reported(result) == "Pre-ScriptExecutionFailed"
    assert time.monotonic() - began < 10
    writer.execute("ROLLBACK")
    writer.close()
    assert not stage.is_held()
    assert stage.processes() == {}


@pytest.mark.parametrize("shell", SHELLS)
def test_late_pre_script_leaves_nothing_held(stage: Stage, shell: str) -> None:
    """The extension gives up on the pre-script while it quiesces, and goes on to the post-script."""
    sh = needs(shell)
    stage.compile(framework="timeout_seconds = 40")
    writer = stage.connect()
    writer.execute("BEGIN IMMEDIATE")
    with stage.host(sh, scale=0.02) as host:
        result = host.backup()
        assert reported(result) == "Pre-ScriptTimeout"
        assert result.backup is Backup.FILESYSTEM
        writer.execute("ROLLBACK")
        writer.close()
        assert result.pre is not None
        # It was not killed: it ends by itself, says that it failed, and holds nothing afterwards.
        assert result.pre.process.wait(20) != 0
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert not stage.is_held()
            time.sleep(0.02)
        assert not result.pre.pipes_held()


@pytest.mark.parametrize("role", ["holder", "watchdog", "keeper", "client"])
def test_hold_broken_during_the_snapshot(stage: Stage, role: str) -> None:
    stage.compile()

    def snapshot() -> None:
        assert stage.is_held()
        os.kill(stage.processes()[role], signal.SIGKILL)
        assert stage.is_free_within(2)

    result = stage.backup(snapshot=snapshot)
    # The snapshot stands, and nobody is told that it is application-consistent.
    assert reported(result) == "Post-ScriptExecutionFailed"
    assert (result.snapshot, result.backup) == (True, Backup.FILESYSTEM)
    assert not stage.is_held()
    assert stage.report()["achieved"] != "application"


def test_hanging_holder_does_not_hang_the_post_script(stage: Stage) -> None:
    stage.compile()

    def snapshot() -> None:
        os.kill(stage.processes()["holder"], signal.SIGSTOP)

    began = time.monotonic()
    result = stage.backup(snapshot=snapshot)
    assert reported(result) == "Post-ScriptExecutionFailed"
    assert time.monotonic() - began < 10
    assert not stage.is_held()


def test_post_fails_and_so_does_the_backup(stage: Stage) -> None:
    stage.compile(failure='backup = "fail"')
    result = stage.backup(snapshot=lambda: os.kill(stage.processes()["keeper"], signal.SIGKILL))
    assert reported(result) == "Post-ScriptExecutionFailed"
    assert (result.snapshot, result.backup) == (True, Backup.FAILED)


def test_slow_release_is_reported_as_timed_out(stage: Stage) -> None:
    text = OWN.format(quiesce='["/bin/true"]', release='["/bin/sleep", "2"]')
    stage.compile(text, framework="timeout_seconds = 60")
    with stage.host(["sh"], scale=0.02) as host:
        result = host.backup()
        assert reported(result) == "Post-ScriptTimeout"
        assert result.post is not None
        assert result.post.process.wait(20) == 0
    assert stage.report()["achieved"] == "application"


def test_all_ten_published_errors_are_produced_here() -> None:
    text = Path(__file__).read_text()
    assert [name for name in FRAMEWORK_ERRORS if f'"{name}"' not in text] == []
