"""A rehearsal says what the framework's host says, and holds what a backup would hold."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.errors import HostUnfit
from app.rehearsal import Host
from tests.conformance.script_host import CONFIG, HOST, ScriptHost
from tests.integration.stage import Stage, stage

pytestmark = [pytest.mark.integration]

Fault = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the extension finds, all right."""
    for name in ("pre", "post"):
        (tmp_path / f"{name}.sh").write_text(f'echo "$@" >>{tmp_path}/ran; exit 0\n')
        (tmp_path / f"{name}.sh").chmod(0o700)
    write(tmp_path)
    return tmp_path


def write(folder: Path, **changes: object) -> None:
    config: dict[str, object] = {
        "pluginName": "ScriptRunner",
        "preScriptLocation": f"{folder}/pre.sh",
        "postScriptLocation": f"{folder}/post.sh",
        "preScriptParams": ["before", "a b"],
        "postScriptParams": ["after"],
        "timeoutInSeconds": 3,
        "continueBackupOnFailure": True,
        "fsFreezeEnabled": True,
        "ScriptsExecutionPollTimeSeconds": 1,
        **changes,
    }
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    (folder / CONFIG).chmod(0o600)


def put(name: str, text: str) -> Fault:
    def do(folder: Path) -> None:
        (folder / name).write_text(text)

    return do


def script(name: str, text: str) -> Fault:
    return put(f"{name}.sh", text)


def both(*faults: Fault) -> Fault:
    def do(folder: Path) -> None:
        for fault in faults:
            fault(folder)

    return do


def config(**changes: object) -> Fault:
    return lambda folder: write(folder, **changes)


def plugin_host(text: str) -> Fault:
    return put(HOST, text)


FAULTS: dict[str, Fault] = {
    "all is well": lambda folder: None,
    "no config": lambda folder: (folder / CONFIG).unlink(),
    "config 644": lambda folder: (folder / CONFIG).chmod(0o644),
    "config torn": put(CONFIG, "{"),
    "no pluginName": config(pluginName=None),
    "another plugin": config(pluginName="Other"),
    "no pre-script": lambda folder: (folder / "pre.sh").unlink(),
    "no post-script, fail": both(
        config(continueBackupOnFailure=False), lambda folder: (folder / "post.sh").unlink()
    ),
    "pre 755": lambda folder: (folder / "pre.sh").chmod(0o755),
    "post 500": lambda folder: (folder / "post.sh").chmod(0o500),
    "pre fails": script("pre", "exit 3"),
    "pre fails, fail": both(config(continueBackupOnFailure=False), script("pre", "exit 3")),
    "pre fails, no freeze": both(config(fsFreezeEnabled=False), script("pre", "exit 3")),
    "post fails": script("post", "exit 1"),
    "post fails, fail": both(config(continueBackupOnFailure=False), script("post", "exit 1")),
    "both fail": both(script("pre", "exit 1"), script("post", "exit 1")),
    "pre is late": both(config(timeoutInSeconds=1), script("pre", "exec sleep 1.2")),
    "post is late, fail": both(
        config(timeoutInSeconds=1, continueBackupOnFailure=False), script("post", "exec sleep 1.2")
    ),
    "poll 2.0": config(ScriptsExecutionPollTimeSeconds=2.0, timeoutInSeconds=9),
    "pre writes to nobody": script("pre", "head -c 300000 /dev/zero | tr '\\0' x; exit 0"),
    "host file of another plugin": plugin_host("[pre_post]\ntimeoutInSeconds=9\nnumberOfPlugins=0\n"),
    "host file is shorter": both(
        plugin_host(
            "[pre_post]\ntimeoutInSeconds=1\nnumberOfPlugins=1\npluginName0=ScriptRunner\n"
            "pluginPath0=/x\npluginConfigPath0={folder}\n"
        ),
        script("pre", "exec sleep 1.2"),
    ),
}


SCALE = 0.25
"""Both hosts' clocks are that much faster, and not those of the scripts."""


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_it_agrees_with_the_host_of_the_conformance_suite(
    folder: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(
        sleep=lambda seconds: time.sleep(seconds * SCALE), monotonic=lambda: time.monotonic() / SCALE
    )
    monkeypatch.setattr("app.rehearsal.time", clock)
    fault(folder)
    if (folder / HOST).exists():
        (folder / HOST).write_text((folder / HOST).read_text().replace("{folder}", str(folder)))
    frozen = lambda seconds: contextlib.nullcontext()  # noqa: E731
    with ScriptHost(folder, owner=os.geteuid(), freeze=frozen, scale=SCALE) as host:
        expected = host.backup()
    ran = (folder / "ran").read_text() if (folder / "ran").exists() else ""
    (folder / "ran").unlink(missing_ok=True)
    held: list[float] = []
    own_host = Host(str(folder), lambda words: None, os.geteuid())
    found = own_host.rehearse(lambda: held.append(time.monotonic()))
    assert own_host.settle(10 / SCALE)
    assert (found.backup, found.error, found.code) == (expected.backup.value, expected.error, expected.code)
    assert found.snapshot == expected.snapshot
    assert len(held) == len(found.scripts) // 2 * found.snapshot
    runs = [run for run in (expected.pre, expected.post) if run is not None]
    assert [s.status for s in found.scripts] == [None if run.timed_out else run.status for run in runs]
    for own, run in zip(found.scripts, runs, strict=True):
        assert abs(own.seconds - run.seconds / SCALE) < 1.5
    assert ((folder / "ran").read_text() if (folder / "ran").exists() else "") == ran


def test_a_script_in_a_folder_of_others_is_not_run(folder: Path) -> None:
    """Owner and mode of the script are right, and whoever may write in its folder could exchange it."""
    (folder / "open").mkdir()
    (folder / "open/post.sh").write_text(f"echo post >>{folder}/ran\n")
    (folder / "open/post.sh").chmod(0o700)
    (folder / "open").chmod(0o777)
    write(folder, postScriptLocation=f"{folder}/open/post.sh")
    with pytest.raises(HostUnfit, match=r"not run: .*: others may write in it"):
        Host(str(folder), lambda words: None, os.geteuid()).rehearse(lambda: None)
    assert not (folder / "ran").exists(), "what cannot be released was held"


def exchange_by_a_link(folder: Path) -> None:
    (folder / "other.sh").write_text(f"echo other >>{folder}/ran\n")
    (folder / "other.sh").chmod(0o700)
    (folder / "post.sh").unlink()
    (folder / "post.sh").symlink_to(folder / "other.sh")


@pytest.mark.parametrize(
    ("exchange", "flaw"),
    [
        (exchange_by_a_link, "is a symbolic link"),
        (lambda folder: (folder / "post.sh").chmod(0o722), "mode 722, want 700"),
    ],
    ids=["link", "mode"],
)
def test_a_post_script_that_was_exchanged_meanwhile_is_not_run(
    folder: Path, exchange: Fault, flaw: str
) -> None:
    host = Host(str(folder), lambda words: None, os.geteuid())
    with pytest.raises(HostUnfit, match=flaw) as raised:
        host.rehearse(lambda: exchange(folder))
    assert host.settle(5)
    assert "app post releases what is held" in raised.value.hint
    assert (folder / "ran").read_text() == "before a b\n"


def test_a_config_behind_a_link_says_nothing(folder: Path) -> None:
    """It chooses the script and its arguments, so it is held to the same."""
    (folder / CONFIG).rename(folder / "other.json")
    (folder / CONFIG).symlink_to(folder / "other.json")
    with pytest.raises(HostUnfit, match="is a symbolic link"):
        Host(str(folder), lambda words: None, os.geteuid()).rehearse(lambda: None)
    assert not (folder / "ran").exists()


# --- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with stage(app_command) as made:
        (made.folder / "state").write_text("running")
        made.program("orders-ctl", f'#!/bin/sh\ncd {made.folder}\n. ./orders-ctl.sh "$1"\n')
        (made.folder / "orders-ctl.sh").write_text(CONTROL)
        yield made


CONTROL = """case $1 in
    pause) echo paused >state ;;
    resume) echo running >state ;;
    status) cat state ;;
esac
echo "$1" >>said
"""


def policy(here: Stage, more: str = "") -> Path:
    return here.policy(
        f"""
        name = "orders"
        extends = "example-custom"
        [settings]
        control = "{here.folder}/orders-ctl"
        os_user = "root"
        [timing]
        quiesce = 5
        retries = 0
        hold = 30
        release = 5
        [freeze]
        mounts = ["/nowhere"]
        timeout = 20
        {more}
        """
    )


def test_policies_are_held_and_released_and_nothing_is_left(here: Stage) -> None:
    cycle = here.start("rehearse", "--seconds", "0.5", "--json", policy(here))
    cycle.when("rehearsal")
    assert (here.folder / "state").read_text() == "paused\n"
    status = cycle.wait(60)
    assert status == 0, cycle.errors
    outcome = json.loads(cycle.output)
    assert (outcome["backup"], outcome["error"]) == ("application-consistent", None)
    assert [s["status"] for s in outcome["scripts"]] == [0, 0]
    assert outcome["report"]["rehearsal"]
    assert outcome["said"] == [], "the report says it"
    assert outcome["report"]["snapshot"]["state"] == "rehearsed"
    assert outcome["report"]["applications"][0]["held"]
    assert (here.folder / "state").read_text() == "running\n"
    assert not Path(f"{here.paths.run}/rehearsal").exists()
    assert "sh " in cycle.errors


def test_a_failed_quiesce_is_told_in_the_frameworks_words(here: Stage) -> None:
    (here.folder / "orders-ctl.sh").write_text(CONTROL.replace("echo paused >state", "exit 1"))
    status, output, _ = here.app("rehearse", "--seconds", "0", policy(here))
    assert status == 1
    assert "the backup would have been: filesystem-consistent" in output
    assert "reported: Pre-ScriptExecutionFailed (300)" in output
    assert "orders: NOT held" in output


def test_why_nothing_was_held_is_told_where_there_is_no_report(here: Stage) -> None:
    chosen = policy(here, '[hazards]\nbackup-running = "fatal"')
    (here.folder / "restic").symlink_to("/bin/sleep")
    with subprocess.Popen([here.folder / "restic", "600"]) as backup:
        status, output, _ = here.app("rehearse", "--seconds", "0", chosen)
        backup.kill()
    assert status == 1
    assert "ended with status 4" in output
    assert re.search(r"^  pre\.log: error: backup-running: .*restic", output, re.MULTILINE), output
    assert not (here.folder / "said").exists(), "the look for hazards comes first"


def test_a_hold_that_breaks_is_told(here: Stage) -> None:
    cycle = here.start("rehearse", "--seconds", "1", "--json", policy(here))
    cycle.when("rehearsal")
    (here.folder / "state").write_text("running\n")
    assert cycle.wait(60) == 1
    assert json.loads(cycle.output)["error"] == "Post-ScriptExecutionFailed"


def test_an_interrupted_rehearsal_releases(here: Stage) -> None:
    cycle = here.start("rehearse", "--seconds", "30", policy(here))
    cycle.when("rehearsal")
    begun = time.monotonic()
    cycle.process.send_signal(signal.SIGINT)
    assert cycle.wait(20) == 130
    assert time.monotonic() - begun < 6
    assert (here.folder / "state").read_text() == "running\n"
    assert not Path(f"{here.paths.run}/rehearsal").exists()


def test_what_is_compiled_is_rehearsed_where_it_is(here: Stage) -> None:
    azure = here.folder / "azure"
    binary = here.program("app", f'#!/bin/sh\nexec {" ".join(here.command)} "$@"\n')
    assert here.app("compile", "--out", azure, "--binary", binary, policy(here))[0] == 0
    status, output, errors = here.app("rehearse", "--out", azure, "--seconds", "0")
    assert status == 0, output + errors
    (azure / CONFIG).chmod(0o644)
    status, output, _ = here.app("rehearse", "--out", azure, "--seconds", "0")
    assert status == 1
    assert "reported: IncorrectJSONConfigFile (305)" in output
    status, output, _ = here.app("rehearse", "--out", here.folder / "none", "--seconds", "0")
    assert status == 1
    assert "silently ignored" in output


def test_scripts_of_a_place_of_their_own_are_not_overwritten(here: Stage) -> None:
    mine = here.program("mine.sh", "mine")
    chosen = policy(here, f'[framework]\npre_location = "{mine}"')
    status, _, errors = here.app("rehearse", "--seconds", "0", chosen)
    assert status == 2
    assert "no rehearsal's place" in errors
    assert mine.read_text() == "mine"
    assert not Path(f"{here.paths.run}/rehearsal").exists()
