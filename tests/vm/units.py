"""What is asked of a guest whose init is systemd: units that hold, how they end, what the next boot did."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.vm import orders
from tests.vm.image import Image
from tests.vm.machine import Disks, Machine

RECOVER = "stillframe-recover.service"

EXTENSION = "extension"
"""A unit that calls the pre-script and lives on, as the extension does between its two scripts."""

ATTEMPTS = 3
"""Of getting as far as the freeze: an emulated machine on a busy one may lose a hold before."""

_EXTENSION_SCRIPT = """\
sh /etc/azure/stillframe/pre.sh
echo "$?" >/run/pre.status
exec sleep 3600
"""

_TRANSIENT = "systemd-run --quiet --service-type=exec --property=StandardOutput=null"


def settings(machine: Machine, unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit, as systemd says them."""
    wanted = " ".join(f"--property={name}" for name in names)
    lines = machine.run(f"systemctl show {wanted} {unit}").checked().splitlines()
    return dict(line.split("=", 1) for line in lines)


def start(machine: Machine, unit: str, command: str, *properties: str) -> None:
    """Start a transient service; what ran under this name before is over."""
    given = " ".join(f"--property={text}" for text in properties)
    machine.run(f"systemctl stop {unit}; systemctl reset-failed {unit}")
    machine.run(f"{_TRANSIENT} --unit={unit} {given} {command}").checked()


def serve_orders(machine: Machine) -> None:
    """The server of ``example-custom`` runs, and its policy is compiled."""
    machine.run("systemctl start orders.service").checked()
    machine.run("until [ -s /var/lib/orders/journal ]; do sleep 0.05; done").checked()
    machine.write("/etc/orders.toml", orders.PAUSABLE)
    machine.run("app compile /etc/orders.toml").checked()


def hold_by_pre(machine: Machine) -> None:
    """The pre-script, started by a service, has quiesced what is compiled and has left."""
    machine.write("/run/extension.sh", _EXTENSION_SCRIPT)
    machine.run("rm -f /run/pre.status")
    start(machine, EXTENSION, "sh /run/extension.sh")
    said = machine.run(
        "until [ -e /run/pre.status ]; do sleep 0.05; done; cat /run/pre.status", 120
    ).checked()
    assert said.strip() == "0", machine.run("tail -n 20 /var/log/stillframe/pre.log").output


def frozen_by_run(machine: Machine, unit: str, seconds: int, *properties: str) -> list[dict[str, Any]]:
    """``app run``, as a service, has frozen / for ``seconds``; the events of the hold so far."""
    rehearsal = f'[snapshot]\nprovider = "none"\nseconds = {seconds}\n'
    machine.write("/etc/volumes.toml", f'version = 1\nname = "volumes"\nextends = "filesystem"\n{rehearsal}')
    frozen = """grep -qs '"frozen","mount":"/"' /run/stillframe/journal"""
    over = """grep -qs '"event":"end"' /run/stillframe/journal"""
    events: list[dict[str, Any]] = []
    for _ in range(ATTEMPTS):
        machine.run("rm -f /run/stillframe/journal")
        start(machine, unit, "app run /etc/volumes.toml", *properties)
        machine.run(f"until {frozen} || {over}; do sleep 0.1; done", 240).checked()
        events = orders.journal(machine)
        if not any(e["event"] == "end" for e in events):
            return events
        print(f"lost before / was frozen: {[e['reason'] for e in events if e['event'] == 'broken']}")
    raise AssertionError(f"/ was not frozen: {events}")


def processes(events: list[dict[str, Any]]) -> dict[str, int]:
    """The processes of a hold by their roles; ``client`` is whoever began it."""
    found = {e["role"]: int(e["pid"]) for e in events if e["event"] == "process"}
    return {**found, "client": next(int(e["pid"]) for e in events if e["event"] == "begin")}


def last_report(machine: Machine) -> dict[str, Any]:
    """The newest report."""
    report: dict[str, Any] = json.loads(machine.run("app report --json").checked())
    return report


def is_over(machine: Machine) -> None:
    """The last hold has ended, every process of it, and nothing is left of it."""
    machine.run("flock --wait 10 /run/stillframe/lock true").checked()
    status = machine.run("app status")
    assert status.status == 0, status.output
    machine.run("[ ! -e /var/lib/stillframe/outstanding.json ]").checked()
    machine.run(
        "echo x >/written && sync /written && echo x >/data/written && sync /data/written", 10
    ).checked()


def hold_orders(machine: Machine) -> None:
    """The orders are quiesced: a pause that stands on the disk."""
    serve_orders(machine)
    hold_by_pre(machine)
    assert machine.run("orders-ctl status").checked().startswith("paused")


class Cut:
    """A guest whose power was cut in the midst of a hold, and its next boot.

    ``machine`` is the one that runs; ``disks`` stay the same over all boots.
    """

    def __init__(self, image: Image, place: Path, hold: Callable[[Machine], object] = hold_orders) -> None:
        self.image = image
        self.disks = Disks(place, {"root": image.root, "data": image.data}, image.kind)
        self.machine = Machine(image, self.disks)
        try:
            hold(self.machine)
            self.again()
        except BaseException:
            self.machine.close()
            raise

    def again(self) -> None:
        """Pull the plug, if it is not off already, and boot; until all that starts at boot has started."""
        self.machine.close()
        self.machine = Machine(self.image, self.disks)
        up = 'systemctl is-active --quiet multi-user.target && [ -z "$(systemctl list-jobs --no-legend)" ]'
        self.machine.run(f"until {up}; do sleep 0.2; done", 240).checked()
