"""Units of a real systemd, stopped for the hold and put back as they were found."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.mechanisms import ConnectionLost, StepFailed, Waiter, service
from app.plan import Step
from tests import systemds
from tests.integration.stage import Stage, stage
from tests.systemds import Systemd

pytestmark = [pytest.mark.integration, pytest.mark.root]

SIMPLE = "[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=basic.target\n"


@pytest.fixture(scope="module")
def manager() -> Iterator[Systemd]:
    try:
        with systemds.systemd() as made:
            yield made
    except systemds.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def connect(manager: Systemd, *units: str) -> service.ServiceConnection:
    options = {"units": list(units), "user": "root", "environment": manager.environment}
    return service.connect(options, [], Waiter(), lambda pid: None, time.monotonic() + 10)


def do(connection: service.ServiceConnection, action: str, was: str = "", seconds: float = 10) -> str:
    step = Step("service", {"action": action, **({"was": was} if was else {})})
    return connection.perform(step, time.monotonic() + seconds)


def policy(here: Stage, manager: Systemd, *units: str, seconds: float = 0) -> Path:
    """The shipped policy for these units."""
    return here.policy(
        f"""
        name = "orders"
        extends = "service"
        [settings]
        units = {list(units)!r}
        user = "root"
        [service.environment]
        XDG_RUNTIME_DIR = "{manager.runtime}"
        [timing]
        quiesce = 10
        retries = 0
        hold = 20
        release = 10
        [freeze]
        enabled = false
        [snapshot]
        provider = "none"
        seconds = {seconds}
        """,
        f"orders-{seconds}",
    )


# -- a whole hold ---------------------------------------------------------------------------------------


def test_what_was_active_is_stopped_and_started_again(here: Stage, manager: Systemd) -> None:
    manager.write({"orders.service": SIMPLE, "idle.service": SIMPLE})
    manager.ctl("start", "orders")
    before = manager.show("orders", "InvocationID")
    cycle = here.start("run", "--json", policy(here, manager, "orders", "idle.service", seconds=1))
    cycle.when("snapshot_begin")
    assert [manager.show(unit, "ActiveState") for unit in ("orders", "idle")] == ["inactive", "inactive"]
    assert cycle.wait() == 0, cycle.output
    assert [manager.show(unit, "ActiveState") for unit in ("orders", "idle")] == ["active", "inactive"]
    assert manager.show("orders", "InvocationID") != before
    (report,) = here.reports()
    (orders,) = report["applications"]
    assert (report["achieved"], orders["held"]) == ("application", True)
    assert orders["saved"]["units_before"] == f"orders.service active {before}\nidle.service inactive -"
    assert not os.listdir(here.paths.answers)


def test_a_connection_during_the_hold_starts_nothing(here: Stage, manager: Systemd) -> None:
    """Socket activation: without its socket stopped, the first client would start the service."""
    address = manager.runtime / "orders.socket"
    manager.write(
        {
            "orders.socket": f"[Socket]\nListenStream={address}\n",
            "orders.service": "[Service]\nExecStart=/bin/sleep 1000\n",
        }
    )
    manager.ctl("start", "orders.socket", "orders.service")
    cycle = here.start("run", "--json", policy(here, manager, "orders", seconds=1))
    cycle.when("snapshot_begin")
    with socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(OSError, match=r"refused|No such file"):
            client.connect(str(address))
        assert manager.show("orders.service", "ActiveState") == "inactive"
        assert cycle.wait() == 0, cycle.output
        client.connect(str(address))
    assert here.reports()[-1]["achieved"] == "application"
    assert [manager.show(f"orders.{kind}", "ActiveState") for kind in ("socket", "service")] == ["active"] * 2


@pytest.mark.parametrize("goes_on", [True, False], ids=["runs", "came-and-went"])
def test_who_starts_it_during_the_hold_breaks_it(here: Stage, manager: Systemd, goes_on: bool) -> None:
    manager.write({"orders.service": SIMPLE})
    manager.ctl("start", "orders")
    cycle = here.start("run", "--json", policy(here, manager, "orders", seconds=1))
    cycle.when("snapshot_begin")
    manager.ctl("start", "orders")
    if not goes_on:
        # It is forgotten then: nothing that systemd says tells of it any more.
        manager.ctl("stop", "orders")
        assert manager.show("orders", "InvocationID") == ""
    assert cycle.wait() == 1
    (report,) = here.reports()
    assert report["achieved"] != "application"
    assert "orders.service was started" in report["applications"][0]["because"][0]
    assert manager.show("orders", "ActiveState") == "active"


@pytest.mark.parametrize("who", ["holder", "keeper", "watchdog", "app"])
def test_whoever_is_killed_it_is_started_again(here: Stage, manager: Systemd, who: str) -> None:
    manager.write({"orders.service": SIMPLE})
    manager.ctl("start", "orders")
    cycle = here.start("run", "--json", policy(here, manager, "orders", seconds=5))
    victim = cycle.pid(who)
    cycle.when("snapshot_begin")
    assert manager.show("orders", "ActiveState") == "inactive"
    struck = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    while manager.show("orders", "ActiveState") != "active":
        assert time.monotonic() - struck < 2, here.events()
        time.sleep(0.01)
    cycle.wait(15)
    here.wait_until_free(5)
    assert all(report["achieved"] != "application" for report in here.reports())


@pytest.mark.parametrize("was_active", [True, False])
def test_after_a_reboot_only_what_was_active_is_started(
    here: Stage, manager: Systemd, was_active: bool
) -> None:
    manager.write({"orders.service": SIMPLE})
    if was_active:
        manager.ctl("start", "orders")
    else:
        manager.ctl("stop", "orders")
    cycle = here.start("run", "--json", policy(here, manager, "orders", seconds=30))
    cycle.when("snapshot_begin")
    # All at once, and the tmpfs is gone: only what is on disk is left.
    pids = [event["pid"] for event in here.events() if event["event"] == "process"]
    for pid in (cycle.process.pid, *pids):
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGSTOP)
    for pid in (cycle.process.pid, *pids):
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    cycle.wait()
    here.wait_until_free(5)
    assert manager.show("orders", "ActiveState") == "inactive"
    shutil.rmtree(here.paths.run)
    status, output, errors = here.app("recover")
    assert status == 0, output + errors
    assert manager.show("orders", "ActiveState") == ("active" if was_active else "inactive")
    assert not Path(here.paths.outstanding).exists()
    assert not os.listdir(here.paths.answers)


# -- the mechanism alone --------------------------------------------------------------------------------


def test_what_is_stopped_along_is_put_back(manager: Systemd) -> None:
    manager.write(
        {
            "db.service": SIMPLE,
            "web.service": f"[Unit]\nRequires=db.service\nAfter=db.service\n{SIMPLE}",
            "part.service": f"[Unit]\nPartOf=db.service\n{SIMPLE}",
            "bound.service": f"[Unit]\nBindsTo=web.service\nAfter=web.service\n{SIMPLE}",
            "other.service": SIMPLE,
            "off.service": f"[Unit]\nPartOf=db.service\n{SIMPLE}",
        }
    )
    names = ("db", "web", "part", "bound", "other")
    manager.ctl("start", *names)
    other = manager.show("other", "InvocationID")
    connection = connect(manager, "db")
    noted = do(connection, "note")
    assert {line.split()[0] for line in noted.splitlines()} == {
        f"{name}.service" for name in ("db", "web", "part", "bound")
    }
    do(connection, "stop", noted)
    states = [manager.show(name, "ActiveState") for name in names]
    assert states == ["inactive", "inactive", "inactive", "inactive", "active"]
    connection.prove(time.monotonic() + 5)
    do(connection, "start", noted)
    assert {manager.show(name, "ActiveState") for name in names} == {"active"}
    assert manager.show("off", "ActiveState") == "inactive"
    assert manager.show("other", "InvocationID") == other


def test_a_timer_is_stopped_first_and_started_again(manager: Systemd) -> None:
    manager.write(
        {"job.timer": "[Timer]\nOnActiveSec=1\nOnUnitInactiveSec=1\nAccuracySec=1ms\n", "job.service": SIMPLE}
    )
    manager.ctl("start", "job.timer", "job.service")
    connection = connect(manager, "job")
    noted = do(connection, "note")
    assert [line.split()[0] for line in noted.splitlines()] == ["job.timer", "job.service"]
    do(connection, "stop", noted)
    time.sleep(1.5)
    assert manager.show("job.service", "ActiveState") == "inactive"
    do(connection, "verify")
    do(connection, "start", noted)
    assert [manager.show(f"job.{kind}", "ActiveState") for kind in ("timer", "service")] == ["active"] * 2
    manager.ctl("stop", "job.timer", "job.service")


def test_an_end_by_sigkill_is_not_called_consistent(manager: Systemd) -> None:
    stubborn = "/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'"
    manager.write({"orders.service": f"[Service]\nExecStart={stubborn}\nTimeoutStopSec=1\n"})
    manager.ctl("start", "orders")
    time.sleep(0.3)
    connection = connect(manager, "orders")
    noted = do(connection, "note")
    with pytest.raises(StepFailed, match="did not end in good order: timeout"):
        do(connection, "stop", noted)
    do(connect(manager, "orders"), "start", noted)
    assert manager.show("orders", "ActiveState") == "active"


def test_what_it_leaves_behind_is_not_at_rest(manager: Systemd) -> None:
    start = "/bin/sh -c 'sleep 1001 & exec sleep 1000'"
    manager.write({"orders.service": f"[Service]\nKillMode=process\nExecStart={start}\n"})
    manager.ctl("start", "orders")
    time.sleep(0.3)
    connection = connect(manager, "orders")
    noted = do(connection, "note")
    with pytest.raises(StepFailed, match="left processes behind: 1"):
        do(connection, "stop", noted)


@pytest.mark.parametrize(("status", "good"), [(0, True), (143, True), (1, False)])
def test_how_a_program_ends_on_sigterm(manager: Systemd, status: int, good: bool) -> None:
    """143 is how programs end that have a handler of their own, as those in Java."""
    loop = f"/bin/sh -c 'trap \"exit {status}\" TERM; while :; do sleep 0.1; done'"
    manager.write({"orders.service": f"[Service]\nExecStart={loop}\n"})
    manager.ctl("start", "orders")
    time.sleep(0.3)
    connection = connect(manager, "orders")
    noted = do(connection, "note")
    if good:
        do(connection, "stop", noted)
        do(connection, "verify")
    else:
        with pytest.raises(StepFailed, match="did not end in good order: exit-code 1"):
            do(connection, "stop", noted)
    do(connection, "start", noted)


def test_what_would_be_started_at_once_is_refused(manager: Systemd) -> None:
    manager.write({"orders.service": SIMPLE, "boss.service": f"[Unit]\nUpholds=orders.service\n{SIMPLE}"})
    manager.ctl("start", "boss")
    manager.ctl("start", "orders")
    with pytest.raises(StepFailed, match=r"boss\.service upholds it"):
        do(connect(manager, "orders"), "note")
    both = connect(manager, "orders", "boss")
    noted = do(both, "note")
    do(both, "stop", noted)
    do(both, "verify")
    do(both, "start", noted)
    assert {manager.show(name, "ActiveState") for name in ("orders", "boss")} == {"active"}
    manager.ctl("stop", "boss", "orders")


def test_what_cannot_be_started_again_is_not_stopped(manager: Systemd) -> None:
    manager.write({"orders.service": f"[Unit]\nRefuseManualStart=yes\n{SIMPLE}", "up.service": SIMPLE})
    with pytest.raises(Exception, match="CanStart=no"):
        connect(manager, "orders")
    manager.ctl("start", "up")
    (manager.runtime / "config/systemd/user/up.service").unlink()
    manager.ctl("daemon-reload")
    with pytest.raises(Exception, match=r"up\.service is not-found"):
        connect(manager, "up")
    assert manager.show("up", "ActiveState") == "active"
    manager.ctl("stop", "up")


def test_a_start_that_fails_is_no_release(manager: Systemd) -> None:
    marker = manager.runtime / "once"
    marker.touch()
    manager.write(
        {"orders.service": f"[Service]\nType=forking\nExecStart=/bin/sh -c 'rm {marker} && sleep 99 &'\n"}
    )
    manager.ctl("start", "orders")
    connection = connect(manager, "orders")
    noted = do(connection, "note")
    manager.write({"orders.service": "[Service]\nType=oneshot\nExecStart=/bin/false\n"})
    do(connection, "stop", noted)
    with pytest.raises(StepFailed, match=r"systemctl start orders\.service"):
        do(connection, "start", noted)


def test_a_stop_that_was_given_up_is_taken_back(manager: Systemd) -> None:
    slow = "/bin/sh -c 'trap \"sleep 2; exit 0\" TERM; while :; do sleep 0.1; done'"
    manager.write({"orders.service": f"[Service]\nExecStart={slow}\n"})
    manager.ctl("start", "orders")
    time.sleep(0.3)
    connection = connect(manager, "orders")
    noted = do(connection, "note")
    with pytest.raises(StepFailed, match="not done in the time allowed"):
        do(connection, "stop", noted, 0.5)
    do(connect(manager, "orders"), "start", noted)
    assert manager.show("orders", "ActiveState") == "active"


def test_a_wrong_note_starts_nothing(manager: Systemd) -> None:
    manager.write({"orders.service": SIMPLE})
    connection = connect(manager, "orders")
    for was in ("orders.service", "--force active -", "orders.service active -; x"):
        with pytest.raises(StepFailed, match="no line of an answer"):
            do(connection, "start", was)
    assert manager.show("orders", "ActiveState") == "inactive"


def test_without_a_hold_nothing_is_proven(manager: Systemd) -> None:
    manager.write({"orders.service": SIMPLE})
    connection = connect(manager, "orders")
    with pytest.raises(StepFailed, match="nothing was stopped"):
        do(connection, "verify")
    do(connection, "stop", do(connection, "note"))
    manager.ctl("start", "orders")
    with pytest.raises(ConnectionLost, match="was started"):
        connection.prove(time.monotonic() + 5)
