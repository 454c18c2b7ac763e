"""The script host re-created: its decision table and its ten published errors, with scripts by hand.

This proves the host itself; ``test_compiled_pair.py`` then runs compiled pairs under it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import FRAMEWORK_ERRORS
from tests import scratch
from tests.conformance.safe_freeze import safe_freeze
from tests.conformance.script_host import Backup, Result, ScriptHost

pytestmark = pytest.mark.integration

# Polls of 1 s become 50 ms, a timeout of 10 s becomes 0.5 s.
SCALE = 0.05


class Bench:
    """A config folder with two scripts, and what the host did between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trace = folder / "trace"
        self.config: dict[str, Any] = {
            "pluginName": "ScriptRunner",
            "preScriptLocation": str(folder / "pre.sh"),
            "postScriptLocation": str(folder / "post.sh"),
            "preScriptParams": [],
            "postScriptParams": [],
            "preScriptNoOfRetries": 0,
            "postScriptNoOfRetries": 0,
            "timeoutInSeconds": 10,
            "continueBackupOnFailure": True,
            "fsFreezeEnabled": True,
            "ScriptsExecutionPollTimeSeconds": 1,
        }
        self.script("pre")
        self.script("post")
        self.write()

    def script(self, which: str, body: str = "exit 0") -> Path:
        path = self.folder / f"{which}.sh"
        path.write_text(f'echo "{which} $*" >> "{self.trace}"\n{body}\n')
        path.chmod(0o700)
        return path

    def write(self, **changes: Any) -> Path:
        self.config.update(changes)
        path = self.folder / "VMSnapshotScriptPluginConfig.json"
        path.write_text(json.dumps(self.config))
        path.chmod(0o600)
        return path

    def note(self, word: str) -> None:
        with self.trace.open("a") as file:
            file.write(f"{word}\n")

    @contextlib.contextmanager
    def freeze(self, seconds: float) -> Iterator[None]:
        self.note("freeze")
        yield
        self.note("thaw")

    def backup(self, **options: Any) -> Result:
        settings: dict[str, Any] = {
            "shell": ["sh"],
            "scale": SCALE,
            "owner": os.geteuid(),
            "freeze": self.freeze,
            "snapshot": lambda: self.note("snapshot"),
        }
        with ScriptHost(self.folder, **{**settings, **options}) as host:
            return host.backup()

    def steps(self) -> list[str]:
        return [line.strip() for line in self.trace.read_text().splitlines()] if self.trace.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def reported(result: Result) -> str:
    """The error's name, its code being one of the published ones."""
    assert result.error is not None
    assert result.code in FRAMEWORK_ERRORS[result.error].codes
    return result.error


TAKEN = ["freeze", "snapshot", "thaw"]


def test_all_succeed(bench: Bench) -> None:
    result = bench.backup()
    assert (result.backup, result.error, result.snapshot) == (Backup.APPLICATION, None, True)
    assert bench.steps() == ["pre", *TAKEN, "post"]


def test_config_missing_is_silent(bench: Bench) -> None:
    bench.write().unlink()
    result = bench.backup()
    assert (result.backup, result.error) == (Backup.FILESYSTEM, None)
    assert bench.steps() == TAKEN


@pytest.mark.parametrize("keep_going", [True, False])
@pytest.mark.parametrize("fault", ["mode", "owner", "text", "plugin", "location"])
def test_config_wrong(bench: Bench, fault: str, keep_going: bool) -> None:
    path = bench.write(continueBackupOnFailure=keep_going)
    options: dict[str, Any] = {}
    if fault == "mode":
        path.chmod(0o644)
    elif fault == "owner":
        options["owner"] = os.geteuid() + 1
    elif fault == "text":
        path.write_text("{")
    elif fault == "plugin":
        bench.write(pluginName="Other")
    else:
        del bench.config["preScriptLocation"]
        bench.write()
    result = bench.backup(**options)
    assert reported(result) == "IncorrectJSONConfigFile"
    assert result.backup is Backup.FILESYSTEM
    assert bench.steps() == TAKEN


@pytest.mark.parametrize(
    ("rules", "mode", "accepted"),
    [
        ("published", 0o400, False),
        ("measured", 0o400, True),
        ("measured", 0o700, False),
        ("measured", 0o640, False),
    ],
)
def test_both_rules_for_the_config(bench: Bench, rules: str, mode: int, accepted: bool) -> None:
    bench.write().chmod(mode)
    assert (bench.backup(rules=rules).error is None) == accepted


@pytest.mark.parametrize(
    ("rules", "mode", "accepted"),
    [
        ("published", 0o500, False),
        ("measured", 0o500, True),
        ("measured", 0o750, False),
        ("measured", 0o701, False),
    ],
)
def test_both_rules_for_scripts(bench: Bench, rules: str, mode: int, accepted: bool) -> None:
    (bench.folder / "post.sh").chmod(mode)
    assert (bench.backup(rules=rules).error is None) == accepted


@pytest.mark.parametrize("keep_going", [True, False])
@pytest.mark.parametrize(
    ("which", "fault", "name"),
    [
        ("pre", "missing", "Pre-ScriptNotFound"),
        ("post", "missing", "Post-ScriptNotFound"),
        ("pre", "mode", "InsufficientPermissionforPre-Script"),
        ("post", "mode", "InsufficientPermissionforPost-Script"),
    ],
)
def test_script_missing_or_wrong(bench: Bench, which: str, fault: str, name: str, keep_going: bool) -> None:
    bench.write(continueBackupOnFailure=keep_going)
    path = bench.folder / f"{which}.sh"
    if fault == "missing":
        path.unlink()
    else:
        path.chmod(0o755)
    result = bench.backup()
    assert reported(result) == name
    # No script runs where a check failed, the post-script neither.
    assert (result.pre, result.post) == (None, None)
    assert result.backup is (Backup.FILESYSTEM if keep_going else Backup.FAILED)
    assert bench.steps() == (TAKEN if keep_going else [])


def test_pre_fails_and_the_backup_goes_on(bench: Bench) -> None:
    bench.script("pre", "exit 3")
    result = bench.backup()
    assert reported(result) == "Pre-ScriptExecutionFailed"
    assert result.backup is Backup.FILESYSTEM
    assert bench.steps() == ["pre", *TAKEN, "post"]


@pytest.mark.parametrize(
    "changes",
    [{"continueBackupOnFailure": False}, {"continueBackupOnFailure": True, "fsFreezeEnabled": False}],
)
def test_pre_fails_and_so_does_the_backup(bench: Bench, changes: dict[str, bool]) -> None:
    bench.script("pre", "exit 3")
    bench.write(**changes)
    result = bench.backup()
    assert reported(result) == "Pre-ScriptExecutionFailed"
    assert (result.backup, result.snapshot) == (Backup.FAILED, False)
    # The post-script still runs.
    assert bench.steps() == ["pre", "post"]


def test_one_disk_falls_back_to_crash_consistent(bench: Bench) -> None:
    bench.script("pre", "exit 3")
    bench.write(continueBackupOnFailure=False)
    assert bench.backup(disks=1).backup is Backup.CRASH


def test_pre_times_out_and_is_not_killed(bench: Bench) -> None:
    bench.script("pre", f"sleep 1; echo late >> {bench.trace}")
    bench.write(timeoutInSeconds=4)
    with ScriptHost(bench.folder, scale=SCALE, owner=os.geteuid(), freeze=bench.freeze) as host:
        result = host.backup()
        assert reported(result) == "Pre-ScriptTimeout"
        assert result.backup is Backup.FILESYSTEM
        assert bench.steps() == ["pre", "freeze", "thaw", "post"]
        assert result.pre is not None
        result.pre.process.wait(10)
    # It finished its work when everything was over: what a compiled pre-script must never do.
    assert bench.steps()[-1] == "late"


@pytest.mark.parametrize("keep_going", [True, False])
def test_post_fails_or_times_out(bench: Bench, keep_going: bool) -> None:
    bench.write(continueBackupOnFailure=keep_going, timeoutInSeconds=4)
    for body, name in (("exit 1", "Post-ScriptExecutionFailed"), ("sleep 1", "Post-ScriptTimeout")):
        bench.script("post", body)
        result = bench.backup()
        assert reported(result) == name
        assert result.snapshot
        assert result.backup is (Backup.FILESYSTEM if keep_going else Backup.FAILED)


HOST = """[pre_post]
timeoutInSeconds = 1800
numberOfPlugins = 1
pluginName0 = ScriptRunner
pluginPath0 = ScriptRunner
pluginConfigPath0 = {folder}
"""


def put_host(bench: Bench, text: str = HOST, mode: int = 0o644) -> None:
    path = bench.folder / "VMSnapshotPluginHost.conf"
    path.write_text(text.format(folder=bench.folder))
    path.chmod(mode)


def test_plugin_host_file(bench: Bench) -> None:
    put_host(bench)
    assert bench.backup().backup is Backup.APPLICATION
    put_host(bench, HOST.replace("{folder}", "{folder}/VMSnapshotScriptPluginConfig.json"))
    assert bench.backup().backup is Backup.APPLICATION


@pytest.mark.parametrize("fault", ["mode", "text", "section", "plugin", "number"])
def test_plugin_host_file_damaged(bench: Bench, fault: str) -> None:
    texts = {
        "mode": HOST,
        "text": "no section",
        "section": "[other]\n",
        "plugin": HOST.replace("ScriptRunner", "Other"),
        "number": HOST.replace("= 1\n", "= none\n"),
    }
    put_host(bench, texts[fault], 0o666 if fault == "mode" else 0o644)
    result = bench.backup()
    assert reported(result) == "IncorrectPluginhostFile"
    assert (result.backup, bench.steps()) == (Backup.FILESYSTEM, TAKEN)


def test_all_ten_published_errors_are_produced_here() -> None:
    """Each name stands in a test above, so that none is forgotten where the table grows."""
    text = Path(__file__).read_text()
    assert [name for name in FRAMEWORK_ERRORS if f'"{name}"' not in text] == []


def test_retries_are_never_made(bench: Bench) -> None:
    bench.write(preScriptNoOfRetries=3)
    bench.script("pre", "exit 1")
    bench.backup()
    assert bench.steps().count("pre") == 1


@pytest.mark.parametrize(("poll", "seconds"), [(1, 2), (2, 4), (3, 6), (9, 6), (2.0, 6), ("1", 6), (True, 6)])
def test_two_loops_of_the_poll_time(bench: Bench, poll: Any, seconds: int) -> None:
    bench.write(ScriptsExecutionPollTimeSeconds=poll)
    result = bench.backup()
    assert result.pre is not None
    assert seconds <= result.pre.seconds / SCALE < seconds + 1.5


def test_output_is_never_read_and_blocks_a_chatty_script(bench: Bench) -> None:
    bench.write(timeoutInSeconds=6)
    bench.script("pre", "head -c 200000 /dev/zero")
    assert reported(bench.backup()) == "Pre-ScriptTimeout"


def test_process_left_behind_holds_the_pipes(bench: Bench) -> None:
    bench.script("pre", "sleep 2 &")
    with ScriptHost(bench.folder, scale=SCALE, owner=os.geteuid(), freeze=bench.freeze) as host:
        result = host.backup()
        assert result.pre is not None
        assert result.pre.pipes_held()
    bench.script("pre", "sleep 2 > /dev/null 2>&1 &")
    with ScriptHost(bench.folder, scale=SCALE, owner=os.geteuid(), freeze=bench.freeze) as host:
        result = host.backup()
        assert result.pre is not None
        assert not result.pre.pipes_held()


def test_parameters_are_passed_and_the_shebang_is_ignored(bench: Bench) -> None:
    bench.write(preScriptParams=["one", "two three"])
    path = bench.script("pre")
    path.write_text("#!/bin/false\n" + path.read_text())
    assert bench.backup().backup is Backup.APPLICATION
    assert bench.steps()[0] == "pre one two three"


def test_freeze_fails(bench: Bench) -> None:
    def busy(seconds: float) -> contextlib.AbstractContextManager[None]:
        raise OSError(errno.EBUSY, "busy")

    result = bench.backup(freeze=busy)
    assert (result.backup, result.snapshot) == (Backup.CRASH, True)
    assert bench.steps()[-1] == "post"


def test_freeze_is_held_for_the_seconds_of_vmbackup_conf(bench: Bench) -> None:
    seen: list[float] = []

    def freeze(seconds: float) -> contextlib.AbstractContextManager[None]:
        seen.append(seconds)
        return contextlib.nullcontext()

    bench.backup(freeze=freeze, scale=0.01)
    (bench.folder / "vmbackup.conf").write_text("[SnapshotThread]\ntimeout = 30\n")
    bench.backup(freeze=freeze, scale=0.01)
    assert seen == [pytest.approx(0.6), pytest.approx(0.3)]


@pytest.mark.root
class TestRealFreeze:
    @pytest.fixture
    def volume(self, scratch_filesystem: Callable[..., scratch.Volume]) -> scratch.Volume:
        return scratch_filesystem("ext4", megabytes=64)

    def test_frozen_for_the_snapshot_and_thawed_after_it(self, bench: Bench, volume: scratch.Volume) -> None:
        seen: list[bool] = []
        result = bench.backup(
            freeze=None,
            mounts=[volume.mount],
            snapshot=lambda: seen.append(scratch.is_frozen(volume.mount)),
        )
        assert result.backup is Backup.APPLICATION
        assert seen == [True]
        assert not scratch.is_frozen(volume.mount)

    def test_failure_thaws_every_mount_also_those_of_others(
        self, bench: Bench, volume: scratch.Volume
    ) -> None:
        scratch.freeze(volume.mount)
        result = bench.backup(freeze=None, mounts=[volume.mount])
        assert result.backup is Backup.CRASH
        assert not scratch.is_frozen(volume.mount)

    def test_skipped_mount_is_not_frozen(self, bench: Bench, volume: scratch.Volume) -> None:
        (bench.folder / "vmbackup.conf").write_text(f"[SnapshotThread]\nMountsToSkip = {volume.mount}\n")
        seen: list[bool] = []
        bench.backup(
            freeze=None,
            mounts=[volume.mount],
            snapshot=lambda: seen.append(scratch.is_frozen(volume.mount)),
        )
        assert seen == [False]

    def test_thaws_by_itself_at_its_timeout(self, bench: Bench, volume: scratch.Volume) -> None:
        with safe_freeze(bench.folder, [volume.mount], 0.2, scale=0.01):
            assert scratch.is_frozen(volume.mount)
            time.sleep(0.5)
            assert not scratch.is_frozen(volume.mount)
