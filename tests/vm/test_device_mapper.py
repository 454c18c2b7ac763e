"""A freeze that hangs in the kernel, because the device under it takes no more writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.vm import orders
from tests.vm.image import Image
from tests.vm.machine import Machine, booted

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

STUCK_CONTROL = """\
#!/bin/sh
# The device is stuck from the moment that the application is paused. Nothing is dirty, and without barriers
# nothing is flushed, so that the writeback ends and FIFREEZE is the first to write. A writeback that hangs:
# tests/integration/test_stuck_device.py.
if [ "$1" = pause ]; then
    DM_DISABLE_UDEV=1 dmsetup suspend --nolockfs slow || exit
fi
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


def test_freeze_of_a_stuck_device(vm_image: Callable[[str], Image]) -> None:
    with booted(vm_image("ext4")) as machine:
        machine.run(f"set -e; {HALVES}").checked()
        machine.write("/usr/local/bin/stuck-ctl", STUCK_CONTROL, 0o755)
        orders.start_server(machine)
        cycle = orders.start_cycle(machine, POLICY)
        hung = _event(machine, "freeze_hung")
        assert hung["mount"] == "/slow"
        thawed, undone = _event(machine, "thawed"), _event(machine, "released")
        print(f"after the freeze was given up: thawed {thawed['t'] - hung['t']:.2f} s, "
              f"released {undone['t'] - hung['t']:.2f} s")  # fmt: skip
        assert thawed["mount"] == "/quick"
        assert thawed["t"] - hung["t"] < LIMIT
        assert undone["t"] - hung["t"] < LIMIT
        # The device is still stuck, and nothing else is.
        machine.run("echo x >/quick/written && echo x >/written", 10).checked()
        assert machine.run("orders-ctl status").checked().startswith("running")
        report = orders.report(cycle)
        assert report["stuck"] == ["/slow"], "the report names the mount that hangs"
        assert report["exit"] == 7
        assert report["achieved"] == "none"
        assert any("/slow" in reason for reason in report["because"]), report["because"]

        machine.run("DM_DISABLE_UDEV=1 dmsetup resume slow").checked()
        machine.run("echo x >/slow/written", 10).checked()
        machine.run("flock --wait 10 /run/stillframe/lock true").checked()
        assert machine.run("app status").status == 0


def _event(machine: Machine, name: str) -> dict[str, Any]:
    """The first event of this name, once the journal has it."""
    give_up = time.monotonic() + 120
    while True:
        events = orders.journal(machine)
        for event in events:
            if event["event"] == name:
                return event
        said = [(e["event"], e.get("reason", "")) for e in events]
        assert "end" not in dict(said) and time.monotonic() < give_up, f"no {name}: {said}"
        time.sleep(0.2)
