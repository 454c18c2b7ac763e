"""Control groups of this kernel, frozen for the hold; in both versions of the interface, where they are."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import HostUnfit
from app.mechanisms import ConnectionLost, StepFailed, Waiter, cgroup
from app.plan import Step
from tests import groups
from tests.groups import Group
from tests.integration.stage import Stage, stage

pytestmark = [pytest.mark.integration, pytest.mark.root]

_POLICY = """
name = "orders"
level = "crash"
{recipe}[timing]
quiesce = 5
retries = 0
hold = 20
release = 5
[freeze]
enabled = false
[snapshot]
provider = "none"
seconds = {seconds}
"""


def policy(group: Group, seconds: float) -> str:
    """A policy that freezes it for so long."""
    return _POLICY.format(recipe=groups.recipe(group.name), seconds=seconds)


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Group]:
    if lacking := groups.missing(request.param):
        pytest.skip(lacking)
    with groups.group(request.param, tmp_path / "count") as made:
        yield made


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def connect(*names: str, actions: tuple[str, ...] = cgroup.ACTIONS) -> cgroup.CgroupConnection:
    steps = [Step("cgroup", {"action": action}) for action in actions]
    return cgroup.connect({"groups": list(names)}, steps, Waiter(), lambda pid: None, time.monotonic() + 5)


def do(connection: cgroup.CgroupConnection, action: str, was: str = "", seconds: float = 5) -> str:
    step = Step("cgroup", {"action": action, **({"was": was} if was else {})})
    return connection.perform(step, time.monotonic() + seconds)


def test_it_stands_still_from_freeze_to_thaw(group: Group) -> None:
    connection = connect(group.name)
    noted = do(connection, "note")
    assert noted == f"{group.name} thawed"
    assert do(connection, "freeze", noted) == f"{group.name} frozen"
    assert not group.is_at_work()
    do(connection, "verify")
    connection.prove(time.monotonic() + 1)
    assert do(connection, "thaw", noted) == f"{group.name} thawed"
    assert group.is_at_work()


def test_who_thaws_it_meanwhile_breaks_the_hold(group: Group) -> None:
    connection = connect(group.name)
    do(connection, "freeze", do(connection, "note"))
    group.freeze(frozen=False)
    with pytest.raises(ConnectionLost):
        connection.prove(time.monotonic() + 1)


def test_thawed_and_frozen_again_is_seen(group: Group) -> None:
    if not (group.folder / "cgroup.freeze").exists():
        pytest.skip("version 1 tells of no changes")
    connection = connect(group.name)
    do(connection, "freeze", do(connection, "note"))
    assert connection.lost() is not None
    group.freeze(frozen=False)
    group.freeze(frozen=True)
    with pytest.raises(ConnectionLost, match="thawed by somebody else"):
        do(connection, "verify")


def test_what_somebody_else_froze_stays_frozen(group: Group, here: Stage) -> None:
    group.freeze(frozen=True)
    status, report = here.run(here.policy(policy(group, 0)))
    assert "frozen already, by somebody else" in str(report["because"])
    assert (status, report["applications"][0]["held"]) == (0, False), "crash is what it is without a hold too"
    assert not group.is_at_work()
    group.freeze(frozen=False)


def test_a_hold_gives_crash_and_no_more(group: Group, here: Stage) -> None:
    cycle = here.start("run", "--json", here.policy(policy(group, 1)))
    cycle.when("snapshot_begin")
    assert not group.is_at_work()
    assert cycle.wait() == 0, cycle.output
    assert group.is_at_work()
    (report,) = here.reports()
    assert (report["achieved"], report["requested"]) == ("crash", "crash")
    assert report["applications"][0]["held"]


@pytest.mark.parametrize("who", ["keeper", "holder", "watchdog", "app"])
def test_whoever_is_killed_it_is_thawed(group: Group, here: Stage, who: str) -> None:
    cycle = here.start("run", "--json", here.policy(policy(group, 5)))
    victim = cycle.pid(who)
    cycle.when("snapshot_begin")
    assert not group.is_at_work(0.1)
    os.kill(victim, signal.SIGKILL)
    struck = time.monotonic()
    assert group.is_at_work(2), here.events()
    print(f"{who}: {time.monotonic() - struck:.2f} s")
    cycle.wait(15)


def test_whoever_dies_in_it_ends_the_hold(group: Group, here: Stage) -> None:
    if not (group.folder / "cgroup.freeze").exists():
        pytest.skip("version 1 tells of no changes")
    cycle = here.start("run", "--json", here.policy(policy(group, 5)))
    cycle.when("snapshot_begin")
    for pid in (group.folder / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    cycle.when("lost", 2)
    assert cycle.wait(10) != 0


def test_whoever_holds_us_or_everything_is_refused(group: Group) -> None:
    mine = Path("/proc/self/cgroup").read_text()
    for name in ("", "/", ".", "/.//", "..", "a/../..", "no-such-group"):
        with pytest.raises(HostUnfit):
            connect(name)
    (group.folder / "cgroup.procs").write_text(str(os.getpid()))
    try:
        with pytest.raises(HostUnfit, match="holds app itself"):
            connect(group.name)
        for name in (
            f"/{group.name}//",
            group.name.replace("/", "//"),
            f"./{group.name.replace('/', '/./')}/.",
        ):
            with pytest.raises(HostUnfit, match="holds app itself"):
                connect(name)
    finally:
        (group.folder.parent / "cgroup.procs").write_text(str(os.getpid()))
    if (group.folder / "cgroup.freeze").exists():
        assert Path("/proc/self/cgroup").read_text() == mine


def test_after_a_reboot_nothing_is_left_to_thaw(group: Group) -> None:
    gone = connect("gone", actions=("thaw",))
    assert do(gone, "thaw", "gone thawed") == ""
    with pytest.raises(StepFailed, match="no line of an answer"):
        do(gone, "thaw", "gone")
