"""A freeze that hangs in the kernel: the device under it takes no more writes, or takes long for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.vm import orders
from tests.vm.image import Image
from tests.vm.machine import Machine, Pending, booted

pytestmark = [pytest.mark.vm(form="full"), pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = 2.0
"""Seconds within which all that can be undone is undone, after a freeze was given up."""

HALVES = """\
export DM_DISABLE_UDEV=1
umount /data
half=$(($(blockdev --getsz /dev/vdb) / 2))
dmsetup create quick --table "0 $half linear /dev/vdb 0"
dmsetup create slow --table "0 $half linear /dev/vdb $half"
for name in quick slow; do
    mkdir "/$name"
    mkfs.ext4 -q "/dev/mapper/$name"
    mount -o barrier=0 "/dev/mapper/$name" "/$name"
done
"""

DELAY = 15
"""Seconds for which a slow device keeps each write: longer than a freeze is waited for, and its report."""

CONTROL = f"""\
#!/bin/sh
# The device is stuck, or slow, from the moment that the application is paused. Nothing is dirty, and without
# barriers nothing is flushed, so that the writeback ends and FIFREEZE is the first to write. A writeback that
# hangs: tests/integration/test_stuck_device.py.
export DM_DISABLE_UDEV=1
table() {{
    half=$(($(blockdev --getsz /dev/vdb) / 2))
    new="0 $half $(echo "$1" | sed "s/@/$half/g")"
    dmsetup suspend --nolockfs slow && dmsetup load slow --table "$new" && dmsetup resume slow
}}
read -r how </run/how
case $1-$how in
pause-stuck) dmsetup suspend --nolockfs slow || exit ;;
pause-slow) table "delay /dev/vdb @ 0 /dev/vdb @ {DELAY}000" || exit ;;
mend-stuck) exec dmsetup resume slow ;;
mend-slow) table "linear /dev/vdb @"; exit ;;
esac
exec orders-ctl "$1"
"""

POLICY = (
    orders.PAUSABLE
    + """\
[settings]
control = "/usr/local/bin/stuck-ctl"
os_user = "root"

[snapshot]
provider = "none"
seconds = 1
"""
)


@pytest.fixture(scope="module")
def machine(vm_image: Callable[[str], Image]) -> Iterator[Machine]:
    with booted(vm_image("ext4")) as started:
        started.run(f"set -e; {HALVES}").checked()
        started.write("/usr/local/bin/stuck-ctl", CONTROL, 0o755)
        orders.start_server(started)
        yield started


@pytest.fixture
def mended(machine: Machine) -> Iterator[Machine]:
    """A machine whose device works again afterwards, and on which nothing of ours is left running."""
    yield machine
    machine.run("stuck-ctl mend").checked()
    machine.run("flock --wait 20 /run/stillframe/lock true").checked()
    machine.run("echo x >/slow/written", 10).checked()
    assert machine.run("app status").status == 0


def test_freeze_of_a_stuck_device(mended: Machine) -> None:
    cycle = _given_up(mended, "stuck")
    # The device is still stuck, and nothing else is.
    mended.run("echo x >/quick/written && echo x >/written", 10).checked()
    _is_reported(cycle)


def test_freeze_of_a_slow_device(mended: Machine) -> None:
    """It hangs as well, and comes back long after it was given up: it is undone then, without a hand."""
    cycle = _given_up(mended, "slow")
    _is_reported(cycle)
    # The FIFREEZE itself, and the superblock that a thaw of ext4 writes.
    mended.run(f"flock --wait {8 * DELAY} /run/stillframe/lock true", 9 * DELAY).checked()
    thawed = [e for e in orders.journal(mended) if e["event"] == "thawed" and e["mount"] == "/slow"]
    assert thawed, "whoever asked for the freeze thawed it"


def _given_up(machine: Machine, how: str) -> Pending:
    """A cycle whose freeze hangs: within two seconds all else is as it was."""
    machine.run(f"echo {how} >/run/how && rm -f /run/stillframe/journal").checked()
    cycle = orders.start_cycle(machine, POLICY)
    hung = _event(machine, "freeze_hung")
    assert hung["mount"] == "/slow"
    thawed, undone = _event(machine, "thawed"), _event(machine, "released")
    programs = orders.seconds_of_steps(orders.journal(machine), hung["t"])
    print(f"{how}: after the freeze was given up: thawed {thawed['t'] - hung['t']:.2f} s, "
          f"released {undone['t'] - hung['t']:.2f} s, {programs:.2f} s of it its programs")  # fmt: skip
    assert thawed["mount"] == "/quick"
    assert thawed["t"] - hung["t"] < LIMIT
    assert undone["t"] - hung["t"] - programs < LIMIT
    assert machine.run("orders-ctl status").checked().startswith("running")
    return cycle


def _is_reported(cycle: Pending) -> None:
    report = orders.report(cycle)
    assert report["stuck"] == ["/slow"], "the report names the mount that hangs"
    assert report["exit"] == 7
    assert report["achieved"] == "none"
    assert any("/slow" in reason for reason in report["because"]), report["because"]


def _event(machine: Machine, name: str) -> dict[str, Any]:
    """The first event of this name, once the journal has it."""
    events = orders.awaited(machine, f'grep -qsE \'"event":"({name}|end)"\' journal')
    found = [event for event in events if event["event"] == name]
    assert found, f"no {name}: {[(e['event'], e.get('reason', '')) for e in events]}"
    return found[0]
