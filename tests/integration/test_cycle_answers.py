"""What an application answered before the hold is what it is put back to, whoever is killed; and roles.

The application is a number on disk that a control program of the tests' own shows and sets: like a
server's setting it stays as it was put, through deaths and reboots.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import journal
from tests.integration.stage import Stage, stage

pytestmark = [pytest.mark.integration]

CONTROL = """#!/bin/sh
cd {folder} || exit
case $1 in
    show) echo "level $(cat level)" ;;
    set) echo "$2" >level && echo "$2" >>sets ;;
    role) cat role ;;
esac
"""

POLICY = """
name = "level"
proven = "stand-in"
level = "application"
{more}
[timing]
quiesce = 10
retries = 0
hold = 20
release = 10
[roles]
ask = {{ mechanism = "command", argv = ["{control}", "role"] }}
primary = '^master'
standby = '^slave'
[[quiesce]]
mechanism = "command"
argv = ["{control}", "show"]
expect = '^level ([0-9]+)$'
save = ["old"]
[[quiesce]]
mechanism = "command"
argv = ["{control}", "set", "0"]
when = {{ old = '[1-9]' }}
[[verify]]
mechanism = "command"
argv = ["{control}", "show"]
expect = '^level 0$'
[[release]]
mechanism = "command"
argv = ["{control}", "set", "{{old}}"]
when = {{ old = '[1-9]' }}
[[release]]
mechanism = "command"
argv = ["{control}", "show"]
expect = '^level {{old:regex}}$'
within = 2
proof = true
[[recover]]
mechanism = "command"
argv = ["{control}", "set", "{{old:word}}"]
[freeze]
enabled = false
timeout = 10
[snapshot]
provider = "none"
seconds = {seconds}
"""


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        (made.folder / "level").write_text("100\n")
        (made.folder / "role").write_text("master\n")
        made.program("level-ctl", CONTROL.format(folder=made.folder))
        yield made


def policy(here: Stage, more: str = "", seconds: float = 0) -> Path:
    text = POLICY.format(control=here.folder / "level-ctl", more=more, seconds=seconds)
    return here.policy(text)


def sets(here: Stage) -> list[str]:
    path = here.folder / "sets"
    return path.read_text().split() if path.exists() else []


def test_it_is_put_back_as_it_was(here: Stage) -> None:
    status, report = here.run(policy(here))
    assert (status, report["achieved"]) == (0, "application"), report["because"]
    assert sets(here) == ["0", "100"]
    assert report["applications"][0]["saved"] == {"old": "100"}
    assert not Path(here.paths.answers).exists() or not os.listdir(here.paths.answers)


def test_what_was_off_before_stays_off(here: Stage) -> None:
    (here.folder / "level").write_text("0\n")
    status, report = here.run(policy(here))
    assert (status, report["achieved"]) == (0, "application")
    assert sets(here) == []


@pytest.mark.parametrize("who", ["holder", "keeper", "app"])
def test_a_death_puts_it_back(here: Stage, who: str) -> None:
    cycle = here.start("run", "--json", policy(here, seconds=1))
    cycle.when("snapshot_begin")
    os.kill(cycle.pid(who), signal.SIGKILL)
    cycle.wait(15)
    here.wait_until_free(5)
    assert sets(here) == ["0", "100"]


def test_a_reboot_puts_it_back_once(here: Stage) -> None:
    cycle = here.start("run", "--json", policy(here, seconds=3))
    cycle.when("snapshot_begin")
    # As a reboot: everybody is gone at once, and so is the tmpfs with the journal.
    victims = [cycle.pid(who) for who in ("keeper", "watchdog", "holder", "app")]
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    cycle.wait(15)
    here.wait_until_free(5)
    shutil.rmtree(here.paths.run)
    assert sets(here) == ["0"]
    status, output, errors = here.app("recover")
    assert status == 0, errors
    assert "level" in output + errors
    assert sets(here) == ["0", "100"]
    assert here.app("recover")[0] == 0
    assert sets(here) == ["0", "100"]
    assert not journal.quiesced_applications(here.events())


def test_another_role_is_left_alone(here: Stage) -> None:
    status, report = here.run(policy(here, 'role = "standby"'))
    found = report["applications"][0]
    assert sets(here) == []
    assert found["left_alone"]
    assert found["because"] == ["left alone: it is a primary now, and the policy is for a standby"]
    assert (status, report["achieved"]) == (1, "crash"), "law 2: the level was not reached, and it says so"
    (here.folder / "role").write_text("slave\n")
    status, report = here.run(policy(here, 'role = "standby"'))
    assert (status, report["achieved"], report["applications"][0]["role"]) == (0, "application", "standby")


def test_an_answer_that_tells_no_role_fails(here: Stage) -> None:
    (here.folder / "role").write_text("unheard of\n")
    status, report = here.run(policy(here, 'role = "primary"'))
    assert status == 1
    assert "does not tell a primary from a standby" in report["applications"][0]["because"][0]
    assert sets(here) == []
