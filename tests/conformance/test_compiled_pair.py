"""Compiled pairs under the re-created script host: every row of its table, its ten errors, its habits.

The database is real SQLite; "held" is always asked of the database itself, never of ``app``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import FRAMEWORK_ERRORS
from tests.conformance.script_host import Backup, Result, ScriptHost

pytestmark = pytest.mark.integration

SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}
Run = Callable[..., "subprocess.CompletedProcess[str]"]

SHOP = """
version = 1
name = "shop"
extends = "sqlite"
settings = { databases = ["DATABASE"] }
timing = { quiesce = 3, retries = 0, hold = 70, release = 3 }
"""

OWN = """
version = 1
name = "own"
summary = "an application by TOML alone"
proven = "stand-in"
level = "application"
timing = {{ quiesce = 5, retries = 0, hold = 70, release = 5 }}
[command]
[[quiesce]]
mechanism = "command"
argv = {quiesce}
[[release]]
mechanism = "command"
argv = {release}
proof = true
[[recover]]
mechanism = "command"
argv = ["/bin/true"]
"""


def _lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        state = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def needs(shell: str) -> list[str]:
    if shutil.which(SHELLS[shell][0]) is None:
        pytest.skip(f"needs {SHELLS[shell][0]}")
    return SHELLS[shell]


class Stage:
    """A database, its policy compiled to a folder, and the host that runs the pair."""

    def __init__(self, folder: Path, prefix: Path, run_app: Run, app_command: list[str]) -> None:
        self.folder = folder
        self.prefix = prefix
        self.azure = folder / "azure"
        self.database = folder / "shop.db"
        self.run_app = run_app
        self.app_command = app_command
        with self.connect() as connection:
            connection.execute("CREATE TABLE sale (number INTEGER)")
        connection.close()

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.database, timeout=0, isolation_level=None)

    def compile(self, text: str = SHOP, **extra: Any) -> None:
        """Write and compile a policy; ``extra``: the lines of further tables."""
        # Long, as the host's clocks are shortened and the applications' are not.
        extra = {"framework": "", **extra}
        if "timeout_seconds" not in extra["framework"]:
            extra["framework"] += "\ntimeout_seconds = 600"
        policy = self.folder / "policy.toml"
        more = "".join(f"\n[{table}]\n{lines}\n" for table, lines in extra.items())
        policy.write_text(text.replace("DATABASE", str(self.database)) + more)
        binary = self.app_command[0]
        done = self.run_app("compile", policy, "--out", self.azure, "--binary", binary)
        assert done.returncode == 0, done.stderr

    def is_held(self) -> bool:
        with contextlib.closing(self.connect()) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                return True
        return False

    def is_free_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.is_held():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def processes(self) -> dict[str, int]:
        """The live processes of the hold by their roles, from the journal."""
        found: dict[str, int] = {}
        journal = self.prefix / "run/stillframe/journal"
        for line in journal.read_text().splitlines() if journal.exists() else []:
            event = json.loads(line)
            if event.get("event") == "process" and _lives(event["pid"]):
                found[event["role"]] = event["pid"]
        return found

    def report(self) -> dict[str, Any]:
        done = self.run_app("report", "--json")
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def log(self, which: str) -> str:
        path = self.prefix / f"var/log/stillframe/{which}.log"
        return path.read_text() if path.exists() else ""

    def host(self, shell: list[str], **options: Any) -> ScriptHost:
        settings: dict[str, Any] = {
            "scale": 0.1,
            "owner": os.geteuid(),
            "freeze": lambda seconds: contextlib.nullcontext(),
        }
        return ScriptHost(self.azure, shell, **{**settings, **options})

    def backup(self, shell: list[str] | None = None, **options: Any) -> Result:
        with self.host(shell or ["sh"], **options) as host:
            result = host.backup()
            for run in (result.pre, result.post):
                if run is not None and not run.timed_out:
                    assert not run.pipes_held()
                    assert run.output == b""
            return result


@pytest.fixture
def stage(tmp_path: Path, prefix: Path, run_app: Run, app_command: list[str]) -> Iterator[Stage]:
    place = Stage(tmp_path, prefix, run_app, app_command)
    yield place
    # Whatever a test did: nothing of ours may outlive it.
    end = time.monotonic() + 5
    while place.processes() and time.monotonic() < end:
        time.sleep(0.05)
    left = place.processes()
    for pid in left.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == {}


def reported(result: Result) -> str:
    assert result.error is not None
    assert result.code in FRAMEWORK_ERRORS[result.error].codes
    return result.error


def found_by_verify(stage: Stage) -> str:
    """What ``app verify`` says comes first, by the framework's own name."""
    done = stage.run_app("verify", "--out", stage.azure, "--json")
    assert done.returncode == 4
    return str(json.loads(done.stdout)["findings"][0]["framework_error"])


# --- every row of the decision table --------------------------------------------------------------


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


# --- its habits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_chatty_client_does_not_block(stage: Stage, shell: str) -> None:
    """200 KB of output of the application's own programs never reach the pipes that nobody reads."""
    sh = needs(shell)
    chatty = '["/usr/bin/seq", "1", "40000"]'
    stage.compile(OWN.format(quiesce=chatty, release=chatty))
    began = time.monotonic()
    result = stage.backup(sh)
    assert (result.backup, result.error) == (Backup.APPLICATION, None), stage.log("pre")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("shell", SHELLS)
def test_post_without_pre_and_post_twice(stage: Stage, shell: str) -> None:
    stage.compile()
    argv = [*needs(shell), str(stage.azure / "stillframe/post.sh")]
    for _ in range(2):
        assert subprocess.run(argv, timeout=20, capture_output=True).returncode == 0, stage.log("post")


def test_second_pre_script_is_refused_and_the_hold_stands(stage: Stage) -> None:
    stage.compile()
    pre = str(stage.azure / "stillframe/pre.sh")

    def snapshot() -> None:
        # The first hold is the client's of this backup; another pre-script must not break it.
        done = subprocess.run(["sh", pre], timeout=20, capture_output=True)
        assert done.returncode != 0
        assert stage.is_held()

    result = stage.backup(snapshot=snapshot)
    assert (result.backup, result.error) == (Backup.APPLICATION, None), stage.log("pre") + stage.log("post")


def test_parameters_of_the_framework_are_taken(stage: Stage) -> None:
    stage.compile(framework='pre_params = ["--help", "a b; $(touch /tmp/never)"]\npost_params = ["-x"]')
    assert stage.backup().backup is Backup.APPLICATION


def test_full_log_folder_does_not_stop_a_backup(stage: Stage) -> None:
    stage.compile()
    log = stage.prefix / "var/log/stillframe"
    log.mkdir(parents=True)
    # A folder where the log should be: nothing can be written, by root neither.
    (log / "pre.log").mkdir()
    (log / "post.log").mkdir()
    assert stage.backup().backup is Backup.APPLICATION


def test_post_script_is_quick(stage: Stage) -> None:
    """Through the holder, without starting the binary."""
    stage.compile()
    subprocess.run(["sh", str(stage.azure / "stillframe/pre.sh")], check=True, timeout=20)
    assert stage.is_held()
    began = time.monotonic()
    subprocess.run(["sh", str(stage.azure / "stillframe/post.sh")], check=True, timeout=20)
    assert time.monotonic() - began < 0.5
    assert not stage.is_held()


def test_writers_of_many_threads_lose_nothing(stage: Stage) -> None:
    stage.compile()
    stop = threading.Event()
    acknowledged: list[int] = []

    def write() -> None:
        connection = sqlite3.connect(stage.database, timeout=30, isolation_level=None)
        number = 0
        while not stop.is_set():
            number += 1
            connection.execute("INSERT INTO sale VALUES (?)", (number,))
            acknowledged.append(number)
            time.sleep(0.002)  # SQLite's lock is not fair: who never pauses starves all others
        connection.close()

    copy = stage.folder / "copy.db"
    before: list[int] = []

    def snapshot() -> None:
        before.extend(acknowledged)
        shutil.copyfile(stage.database, copy)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.3)
        result = stage.backup(snapshot=snapshot)
    finally:
        stop.set()
        writer.join(40)
    assert result.backup is Backup.APPLICATION, stage.log("pre")
    connection = sqlite3.connect(copy)
    stored = {row[0] for row in connection.execute("SELECT number FROM sale")}
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert before
    assert set(before) <= stored
    # The copy was taken from held files: nothing from after the snapshot began is in it.
    assert len(stored) <= len(before) + 1


def test_all_ten_published_errors_are_produced_here() -> None:
    text = Path(__file__).read_text()
    assert [name for name in FRAMEWORK_ERRORS if f'"{name}"' not in text] == []


def test_post_called_by_hand_asks_the_holder(stage: Stage) -> None:
    """Also without the script: the holder is asked, and a second time vouches for nothing."""
    stage.compile()
    assert subprocess.run(["sh", stage.azure / "stillframe/pre.sh"], check=False).returncode == 0
    assert stage.is_held()
    assert stage.run_app("post", "--config", stage.azure).returncode == 0
    assert not stage.is_held()
    assert stage.run_app("post", "--config", stage.azure).returncode == 1


def test_a_policy_without_an_application(stage: Stage) -> None:
    """Nothing is quiesced, so there is nothing that could take too long."""
    stage.compile('version = 1\nname = "plain"\nextends = "filesystem"\n', framework="timeout_seconds = 10")
    assert subprocess.run(["sh", stage.azure / "stillframe/pre.sh"], check=False).returncode == 0, stage.log(
        "pre"
    )
    assert subprocess.run(["sh", stage.azure / "stillframe/post.sh"], check=False).returncode == 0
