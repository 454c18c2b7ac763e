"""Where systemd is the machine's own: a service stopped while / is frozen, and put back after a power cut.

Its control group is frozen too, in version 2 of the interface, as today's distributions have it.
"""

from __future__ import annotations

import pytest

from tests import groups
from tests.vm import orders, units
from tests.vm.machine import Machine
from tests.vm.units import Cut

pytestmark = [pytest.mark.vm(form="full"), pytest.mark.slow, pytest.mark.timeout(900)]

FULL = pytest.mark.vm(form="full")

# Not wanted by any target: after a boot it runs only if somebody starts it.
UNITS = {
    "ledger.socket": "[Socket]\nListenStream=/run/ledger.socket\n",
    "ledger.service": "[Service]\nExecStart=/bin/sleep 100000\n",
    "reader.service": "[Unit]\nRequires=ledger.service\nAfter=ledger.service\n"
    "[Service]\nExecStart=/bin/sleep 100000\n",
    "idle.service": "[Service]\nExecStart=/bin/sleep 100000\n",
}

STOPPED = """\
version = 1
name = "ledger"
extends = "service"
[settings]
units = ["ledger.service", "idle.service"]
[timing]
quiesce = 60
retries = 0
hold = 120
release = 60
[freeze]
timeout = 60
[snapshot]
provider = "none"
seconds = 1
"""

FROZEN = f"""\
version = 1
name = "ledger"
level = "crash"
{groups.recipe("system.slice/ledger.service")}[timing]
hold = 120
[snapshot]
provider = "none"
seconds = 1
"""


@pytest.fixture
def machine(recovered: Cut) -> Machine:
    units.is_over(recovered.machine)
    _serve(recovered.machine)
    return recovered.machine


def _serve(machine: Machine) -> None:
    for name, text in UNITS.items():
        machine.write(f"/etc/systemd/system/{name}", text, 0o644)
    machine.run("systemctl daemon-reload && systemctl start ledger.socket ledger.service reader").checked()


def _states(machine: Machine) -> dict[str, tuple[str, str]]:
    """State and invocation of each of the units."""
    found = {}
    for name in UNITS:
        said = units.settings(machine, name, "ActiveState", "InvocationID")
        found[name] = (said["ActiveState"], said["InvocationID"])
    return found


def test_a_service_is_stopped_while_root_is_frozen(machine: Machine) -> None:
    before = _states(machine)
    report = orders.report(orders.start_cycle(machine, STOPPED))
    assert (report["achieved"], report["because"]) == ("application", []), report
    assert {f["mount"]: f["covers_snapshot"] for f in report["filesystems"]}["/"]
    after = _states(machine)
    assert {name: state for name, (state, _) in after.items()} == {
        "ledger.socket": "active",
        "ledger.service": "active",
        "reader.service": "active",
        "idle.service": "inactive",
    }
    for name in ("ledger.service", "reader.service"):
        assert after[name][1] != before[name][1], "another start"
    events = [
        e for e in orders.journal(machine) if e["event"] in ("quiesced", "freezing", "thawed", "released")
    ]
    assert [e["event"] for e in events if e.get("mount") in (None, "/")] == [
        "quiesced",
        "freezing",
        "thawed",
        "released",
    ]
    units.is_over(machine)


def test_its_control_group_is_frozen_and_thawed(machine: Machine) -> None:
    report = orders.report(orders.start_cycle(machine, FROZEN))
    (ledger,) = report["applications"]
    assert (report["achieved"], ledger["held"]) == ("crash", True), report
    folder = "/sys/fs/cgroup/system.slice/ledger.service"
    assert machine.run(f"cat {folder}/cgroup.freeze").checked().strip() == "0"
    assert "frozen 0" in machine.run(f"cat {folder}/cgroup.events").checked()
    units.is_over(machine)


@FULL
def test_after_a_power_cut_it_is_started_by_the_unit(recovered: Cut) -> None:
    """It was active, and nothing but the recovery of the next boot could start it."""
    machine = recovered.machine
    _serve(machine)
    machine.write("/etc/ledger.toml", STOPPED)
    machine.run("app compile /etc/ledger.toml").checked()
    machine.run("sh /etc/azure/stillframe/pre.sh", 120).checked()
    assert units.settings(machine, "ledger.service", "ActiveState")["ActiveState"] == "inactive"
    recovered.again()
    machine = recovered.machine
    states = {name: state for name, (state, _) in _states(machine).items()}
    assert states == {
        "ledger.socket": "active",
        "ledger.service": "active",
        "reader.service": "active",
        "idle.service": "inactive",
    }
    assert (
        "ledger: released"
        in machine.run(f"journalctl --no-pager --output=cat --unit={units.RECOVER}").checked()
    )
    units.is_over(machine)
