"""The unit that ``app install`` brings: after a power cut it releases, once, and else it does nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm import orders, units
from tests.vm.image import Image
from tests.vm.machine import Machine, folder
from tests.vm.units import RECOVER, Cut

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(900)]

FULL = pytest.mark.vm(form="full")

STOP_SECONDS = 60.0
"""Less than systemd waits for a unit that does not end (DefaultTimeoutStopSec, 90 s)."""


def test_the_next_boot_releases_once(recovered: Cut) -> None:
    machine = recovered.machine
    print(f"booted in {machine.boot_seconds:.1f} s")
    assert machine.run("cat /run/found-at-boot").checked().strip() == "paused", "nothing was shown"
    names = ("ConditionResult", "Result", "ExecMainStatus", "ActiveState")
    assert units.settings(machine, RECOVER, *names) == {
        "ConditionResult": "yes",
        "Result": "success",
        "ExecMainStatus": "0",
        "ActiveState": "inactive",
    }
    assert machine.run(f"systemctl status {RECOVER}").status == 3, "over, and not failed (systemctl(1))"
    assert machine.run("systemctl is-failed '*'").status != 0
    assert "orders: released" in machine.run(f"journalctl --no-pager --output=cat --unit={RECOVER}").checked()
    assert machine.run("orders-ctl status").checked().startswith("running")
    units.is_over(machine)
    assert _undone(machine.run("cat /run/stillframe/journal").checked()) == 1
    report = units.last_report(machine)
    assert report["number"] == 1
    assert report["achieved"] != "application"
    assert report["stuck"] == []
    # Asked for again, it finds nothing: no second release, no second report.
    machine.run(f"systemctl start {RECOVER}").checked()
    assert _undone(machine.run("cat /run/stillframe/journal").checked()) == 1
    assert units.last_report(machine)["number"] == report["number"]
    assert machine.run("command -v python3 python").status != 0


def _undone(journal: str) -> int:
    return journal.count('"event":"undone"')


@pytest.fixture
def cut(systemd_image: Callable[..., Image]) -> Iterator[Callable[..., Cut]]:
    """Makes a guest that was cut off in its hold."""
    with folder() as place:
        made: list[Cut] = []

        def make(hold: Callable[[Machine], object] = units.hold_orders, package: Path | None = None) -> Cut:
            made.append(Cut(systemd_image("ext4", package), place, hold))
            return made[0]

        try:
            yield make
        finally:
            for one in made:
                one.machine.close()


@FULL
def test_the_next_pre_releases_where_the_unit_is_masked(cut: Callable[..., Cut]) -> None:
    def masked_hold(machine: Machine) -> None:
        machine.run(f"systemctl mask {RECOVER} && sync").checked()
        units.hold_orders(machine)

    machine = cut(masked_hold).machine
    assert units.settings(machine, RECOVER, "LoadState")["LoadState"] == "masked"
    assert machine.run("orders-ctl status").checked().startswith("paused")
    assert machine.run("app status").status == 7
    machine.run("systemctl start orders.service").checked()
    units.hold_by_pre(machine)
    log = machine.run("cat /var/log/stillframe/pre.log").checked()
    assert "an earlier hold died; thawed: nothing; released: orders" in log
    assert machine.run("sh /etc/azure/stillframe/post.sh").status == 0
    assert units.last_report(machine)["achieved"] == "application"
    assert machine.run("orders-ctl status").checked().startswith("running")
    units.is_over(machine)


@FULL
def test_a_clean_shutdown_leaves_nothing_to_do(cut: Callable[..., Cut]) -> None:
    """Not even one in the midst of a hold, which the stop ends."""
    guest = cut()
    machine = guest.machine
    reports = units.last_report(machine)["number"]
    machine.run("systemctl start orders.service").checked()
    units.hold_by_pre(machine)
    for when in ("in a hold", "idle"):
        machine.start("systemctl poweroff --no-block")  # which may be quicker than its answer
        seconds = machine.powered_off()
        print(f"{when}: off after {seconds:.1f} s")
        assert seconds < STOP_SECONDS, "nothing of ours may hold a shutdown up"
        guest.again()
        machine = guest.machine
        assert machine.run("cat /run/found-at-boot").checked().strip() == "running"
        assert units.settings(machine, RECOVER, "ConditionResult", "ExecMainStartTimestamp") == {
            "ConditionResult": "no",
            "ExecMainStartTimestamp": "",
        }
        assert units.last_report(machine)["number"] == reports + 1
        assert machine.run("[ -e /run/stillframe/journal ]").status != 0
        units.is_over(machine)


@FULL
def test_installed_by_a_package(cut: Callable[..., Cut]) -> None:
    packages = sorted(Path(__file__).parents[2].glob("dist/release/*.deb"))
    if not packages:
        pytest.skip("needs dist/release/*.deb: make release")
    machine = cut(package=packages[-1]).machine
    assert (
        machine.run("dpkg --status stillframe | grep ^Status").checked() == "Status: install ok installed\n"
    )
    assert units.settings(machine, RECOVER, "Result", "ExecMainStatus", "ConditionResult") == {
        "Result": "success",
        "ExecMainStatus": "0",
        "ConditionResult": "yes",
    }
    assert machine.run("orders-ctl status").checked().startswith("running")
    units.is_over(machine)


SERVICES = {
    # As many an operator writes it: systemd starts it last of all, after whatever the target waits for.
    "late": "[Unit]\nAfter=multi-user.target\n[Service]\nExecStart=sleep infinity\n"
    "[Install]\nWantedBy=multi-user.target\n",
    # Started by hand: at a boot nobody starts it but who put it out of work.
    "by-hand": "[Service]\nExecStart=sleep infinity\n",
}

STOPPED = """\
version = 1
name = "services"
extends = "service"

[settings]
units = ["late.service", "by-hand.service"]
"""


def _hold_services(machine: Machine) -> None:
    for name, text in SERVICES.items():
        machine.write(f"/etc/systemd/system/{name}.service", text, 0o644)
    machine.run("systemctl daemon-reload; systemctl enable --now late; systemctl start by-hand").checked()
    machine.write("/etc/services.toml", STOPPED)
    machine.run("app compile /etc/services.toml").checked()
    units.hold_by_pre(machine)
    assert machine.run("systemctl is-active late by-hand").output.split() == ["inactive"] * 2


@FULL
def test_services_that_were_stopped_are_started(cut: Callable[..., Cut]) -> None:
    """The boot waits for nobody, and whoever is needed for a release has started before it."""
    machine = cut(_hold_services).machine
    print(machine.run(f"journalctl --no-pager --output=cat --unit={RECOVER}").output)
    print([e["reason"] for e in orders.journal(machine) if e["event"] == "undo_failed"])
    assert machine.run("systemctl is-active late by-hand").output.split() == ["active"] * 2
    assert units.settings(machine, RECOVER, "Result", "ExecMainStatus") == {
        "Result": "success",
        "ExecMainStatus": "0",
    }
    units.is_over(machine)
    assert units.last_report(machine)["stuck"] == []
