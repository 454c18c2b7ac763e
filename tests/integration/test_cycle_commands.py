"""What an operator sees and does beside a cycle: status, report, thaw and recover."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import scratch
from tests.integration.stage import Cycle, Stage, stage

pytestmark = [pytest.mark.integration, pytest.mark.root]


@pytest.fixture
def here(app_command: list[str], as_root: None) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def policy(here: Stage, mount: Path, seconds: float) -> Path:
    """Freeze one volume."""
    return here.policy(
        f'name = "volume"\nextends = "filesystem"\n[freeze]\nmounts = ["{mount}"]\ntimeout = 20\n'
        f'[snapshot]\nprovider = "none"\nseconds = {seconds}\n'
    )


def ask(here: Stage, *words: str) -> subprocess.CompletedProcess[str]:
    """Another ``app`` beside the one that runs."""
    return subprocess.run(
        [*here.command, *words],
        env={**os.environ, "STILLFRAME_PREFIX": str(here.prefix)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def kill_all(cycle: Cycle) -> None:
    """SIGKILL to every process of the hold at once."""
    pids = [cycle.pid(role) for role in ("app", "watchdog", "holder")]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)
    cycle.wait(5)
    cycle.stage.wait_until_free(5)


def test_nothing_yet(here: Stage) -> None:
    """On a machine that never held anything."""
    here.prefix.mkdir()
    assert "nothing is held" in ask(here, "status").stdout
    assert ask(here, "report", "--list").stdout == "there is no report yet\n"
    missing = ask(here, "report")
    assert missing.returncode == 2
    assert "there is no report yet" in missing.stderr
    assert ask(here, "recover").stdout == "nothing was left behind\n"
    assert ask(here, "thaw").stdout == "nothing of ours was frozen\n"


def test_status_during_a_hold(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """Who runs, since when, what is frozen; and recover keeps its hands off."""
    cycle = here.start("run", "--json", policy(here, scratch_ext4.mount, 1))
    cycle.when("snapshot_begin")
    found = json.loads(ask(here, "status", "--json").stdout)
    assert found["running"]
    assert found["kind"] == "run"
    assert found["frozen"] == [str(scratch_ext4.mount)]
    assert {p["role"] for p in found["processes"]} >= {"holder", "watchdog"}
    assert not found["left_behind"]
    refused = ask(here, "recover")
    assert refused.returncode == 5
    assert scratch.is_frozen(scratch_ext4.mount)
    assert cycle.wait(10) == 0
    after = json.loads(ask(here, "status", "--json").stdout)
    assert not after["running"]
    assert not after["processes"]
    assert after["last_report"]["achieved"] == "filesystem"


def test_reports_are_numbered(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """By number, the newest by default, all in a list; an unknown number is named."""
    for _ in range(3):
        assert here.run(policy(here, scratch_ext4.mount, 0))[0] == 0
    assert json.loads(ask(here, "report", "--json").stdout)["number"] == 3
    assert json.loads(ask(here, "report", "2", "--json").stdout)["number"] == 2
    assert [r["number"] for r in json.loads(ask(here, "report", "--list", "--json").stdout)] == [1, 2, 3]
    assert "there are 1 to 3" in ask(here, "report", "9").stderr
    text = ask(here, "report").stdout
    assert text.startswith("consistency level: filesystem")
    assert f"{scratch_ext4.mount}: frozen" in text


@pytest.mark.parametrize("words", [("recover",), ("thaw",), ("thaw", "--all")], ids=" ".join)
def test_left_frozen(here: Stage, scratch_ext4: scratch.Volume, words: tuple[str, ...]) -> None:
    """Every process died at once: each of the commands thaws it, and says so."""
    mount = scratch_ext4.mount
    cycle = here.start("run", policy(here, mount, 5))
    cycle.when("frozen")
    kill_all(cycle)
    assert scratch.is_frozen(mount)
    status = ask(here, "status")
    assert status.returncode == 7
    assert "run 'app recover'" in status.stdout
    done = ask(here, *words)
    assert done.returncode == 0, done.stderr
    assert f"{mount}: thawed" in done.stdout
    assert not scratch.is_frozen(mount)
    assert here.run(policy(here, mount, 0))[0] == 0
    assert ask(here, "status").returncode == 0


def test_next_cycle_thaws_what_was_left(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """Without anybody's help."""
    mount = scratch_ext4.mount
    cycle = here.start("run", policy(here, mount, 5))
    cycle.when("frozen")
    kill_all(cycle)
    status, output, errors = here.app("run", policy(here, mount, 0))
    assert status == 0, output
    assert f"thawed: {mount}" in errors


def test_thaw_keeps_to_its_own(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """A freeze of somebody else's stands, unless --all is said."""
    mount = scratch_ext4.mount
    assert here.run(policy(here, mount, 0))[0] == 0
    scratch.freeze(mount)
    assert ask(here, "thaw").stdout == "nothing of ours was frozen\n"
    assert ask(here, "recover").stdout == "nothing was left behind\n"
    assert scratch.is_frozen(mount)
    assert json.loads(ask(here, "thaw", "--all", "--json").stdout) == {"thawed": [str(mount)], "stuck": []}
    assert not scratch.is_frozen(mount)


def test_thaw_during_a_hold(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """An operator who thaws it by hand ends the claim, too: the freeze did not cover the snapshot."""
    mount = scratch_ext4.mount
    cycle = here.start("run", "--json", policy(here, mount, 1))
    cycle.when("snapshot_begin")
    assert ask(here, "thaw").returncode == 0
    assert not scratch.is_frozen(mount)
    assert cycle.wait(10) == 1
    (report,) = here.reports()
    assert report["achieved"] == "crash"


def test_left_frozen_and_gone(here: Stage) -> None:
    """A volume that is no longer mounted cannot be frozen: nothing is left."""
    with scratch.filesystem("ext4", 64) as volume:
        cycle = here.start("run", policy(here, volume.mount, 5))
        cycle.when("frozen")
        kill_all(cycle)
    assert ask(here, "status").returncode == 7
    done = ask(here, "recover")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ask(here, "status").returncode == 0
