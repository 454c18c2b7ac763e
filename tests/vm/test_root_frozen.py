"""A whole cycle with / frozen, the disks snapshotted from outside, a second VM started from them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.vm import orders
from tests.vm.image import Image
from tests.vm.machine import Machine, booted

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(900)]

OURS = "/var/log/stillframe /var/lib/stillframe /usr/local/bin/app /swapfile /srv/orders"


# With / on xfs the short form shows more: test_stacks.py.
@pytest.mark.parametrize("kind", ["ext4", pytest.param("xfs", marks=pytest.mark.vm(form="full"))])
def test_snapshot_of_a_frozen_root_boots_and_proves(kind: str, vm_image: Callable[[str], Image]) -> None:
    image = vm_image(kind)
    with booted(image) as machine:
        _is_what_it_should_be(machine, kind)
        orders.start_writer(machine)
        cycle = orders.start_cycle(machine, orders.SQLITE + orders.TAKEN_BY_HOST)
        assert machine.asked(during=cycle) == "take"
        # Whatever the host has heard of by now was committed before the snapshot began.
        acknowledged = {number for number, _ in list(machine.ledger)}
        blocked = machine.run("cat /proc/[0-9]*/stat 2>/dev/null | grep '(app) D' || true").checked()
        frozen = [e["mount"] for e in orders.journal(machine) if e["event"] == "frozen"]
        begun = time.monotonic()
        snapshot = machine.snapshot()
        took = time.monotonic() - begun
        machine.tell("taken")
        report = orders.report(cycle)
        assert frozen == ["/data", "/"], "deepest first, / last"
        assert blocked == "", "nothing of ours waits for the frozen disk"
        assert report["achieved"] == "application", report
        assert report["stuck"] == []
        assert {f["mount"]: f["covers_snapshot"] for f in report["filesystems"]} == {"/data": True, "/": True}
        assert machine.run("date >/written-after && sync /written-after").status == 0
        machine.wait_for_commits(3)
        machine.run('[ -n "$(ls /var/lib/stillframe/reports)" ]').checked()  # on what was frozen
        print(f"boot {machine.boot_seconds:.1f} s, snapshot {took * 1000:.0f} ms")
        with booted(image, snapshot) as second:
            _proves(second, acknowledged)


def _is_what_it_should_be(machine: Machine, kind: str) -> None:
    """All that could block a cycle stands on the root, and no Python with it."""
    types = [
        machine.run(f"findmnt --noheadings --output FSTYPE {path}").checked().strip()
        for path in ("/", "/run")
    ]
    assert types == [kind, "tmpfs"]
    devices = machine.run(f"stat -c %d / {OURS}").checked().split()
    assert len(devices) == 1 + len(OURS.split()) and len(set(devices)) == 1, devices
    assert machine.run("swapon --show=NAME --noheadings").checked().strip() == "/swapfile"
    assert machine.run("command -v python3 python").status != 0


def _proves(machine: Machine, acknowledged: set[int]) -> None:
    assert machine.run("touch /written && sync /written").status == 0, "a snapshot must not come up frozen"
    # As a restore lays it out: what is in use cannot be proven, and / is.
    machine.run("mkdir -p /restored/srv /restored/data && cp -a /srv/orders /restored/srv").checked()
    machine.run("cp -a /data/orders.db* /restored/data").checked()
    proof = machine.run("app prove /etc/orders.toml --data /restored")
    assert proof.status == 0, proof.output
    for database in orders.DATABASES:
        found = orders.committed(machine, f"/restored{database}")
        assert acknowledged <= found, f"{database}: acknowledged commits are missing"
