"""LVM, a thin pool, md and btrfs beside /, all frozen at once: the host's snapshot of seven disks is whole.

The log, /var, the binary's own file and the swap file all lie on what is frozen.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm import orders, stacks
from tests.vm.image import Image
from tests.vm.machine import Machine, booted, folder

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(900)]

PLACES = ("/var/lib/shop", "/var/log/shop", "/opt/orders", "/pool", "/pool/archive")

DATABASES = (*orders.DATABASES, *(f"{place}/orders.db" for place in PLACES))

KINDS = {
    "/": "",
    "/var/lib/shop": "ext4",
    "/var/log/shop": "xfs",
    "/opt/orders": "ext4",
    "/pool": "btrfs",
    "/mnt/orders": "ext4",
}

OURS = {
    "/var/log/stillframe": "/var/log",
    "/var/lib/stillframe": "/var",
    "/usr/local/bin/app": "/",
    "/swapfile": "/",
}
"""All that could block us, and the filesystem that it lies on."""

APPENDER = """\
while :; do
    echo x >>"$1/appended"
    sleep 0.3
done
"""
"""Somebody who writes to one filesystem alone, and so waits at that one."""

SWAPPED = 40 << 20

GROUP = """\
mkdir /run/group
mount -t cgroup2 cgroup2 /run/group
mkdir /run/group/mover
echo +memory >/run/group/cgroup.subtree_control
echo 16M >/run/group/mover/memory.max
"""

MOVER = f"""\
set -e
echo $$ >/run/group/mover/cgroup.procs
before=$(awk '/^pswp/ {{ printf "%s ", $2 }}' /proc/vmstat)
seq 1 99999999 | head -c {SWAPPED} >/run/moved
[ "$(md5sum </run/moved)" = "$(seq 1 99999999 | head -c {SWAPPED} | md5sum)" ]
rm /run/moved
echo "$before" $(awk '/^pswp/ {{ print $2 }}' /proc/vmstat)
"""
"""Uses more memory than it may have, so that pages go out to the swap file and come back."""


@pytest.mark.parametrize(
    "kind", ["xfs", pytest.param("ext4", marks=pytest.mark.vm(form="full"))], ids=["root-xfs", "root-ext4"]
)
def test_snapshot_of_all_of_them_is_whole(kind: str, vm_image: Callable[[str], Image]) -> None:
    image = vm_image(kind)
    with (
        folder() as place,
        booted(image, {"root": image.root, "data": image.data, **stacks.blank(place)}) as machine,
    ):
        stacks.make(machine)
        _is_what_it_should_be(machine, kind)
        machine.run(f"set -e; mkdir -p {' '.join(PLACES)}; {GROUP}").checked()
        orders.start_writer(machine, DATABASES)
        for written in KINDS:
            machine.run(f"setsid sh -c '{APPENDER}' sh {written} </dev/null >/dev/null 2>&1 3>&- &").checked()
        cycle = orders.start_cycle(machine, orders.sqlite(DATABASES) + orders.TAKEN_BY_HOST)
        assert machine.asked(during=cycle) == "take"
        acknowledged = {number for number, _ in list(machine.ledger)}
        blocked = machine.run("cat /proc/[0-9]*/stat 2>/dev/null | grep '(app) D' || true").checked()
        frozen = [e["mount"] for e in orders.journal(machine) if e["event"] == "frozen"]
        _swaps(machine)
        begun = time.monotonic()
        snapshot = machine.snapshot()
        took = time.monotonic() - begun
        machine.tell("taken")
        report = orders.report(cycle)
        assert report["achieved"] == "application", report
        assert report["stuck"] == []
        assert blocked == "", "nothing of ours waits for a frozen disk"
        assert frozen[0] == "/var/log", "deepest first"
        assert sorted(frozen[1:-1]) == ["/data", "/opt", "/pool", "/var"], "each filesystem once"
        assert frozen[-1] == "/"
        assert all(f["covers_snapshot"] for f in report["filesystems"])
        machine.wait_for_commits(2)
        _are_writing_again(machine)
        machine.run('[ -n "$(ls /var/lib/stillframe/reports)" ]').checked()
        print(f"boot {machine.boot_seconds:.1f} s, snapshot of {len(snapshot)} disks {took * 1000:.0f} ms")
        stacks.mirrors_are_alike(machine, snapshot)
        with booted(image, snapshot) as second:
            _proves(second, acknowledged)
            second.run("swapoff -a && mount -o remount,ro /").checked()
            second.close()
            _is_clean(second.disks.tops["root"], kind)


def _is_what_it_should_be(machine: Machine, kind: str) -> None:
    found = machine.run(
        f"mkdir -p -m 700 {' '.join(KINDS)} /var/log/stillframe && stat --format %m -- {' '.join(OURS)}"
    )
    assert found.checked().split() == list(OURS.values())
    for path, wanted in KINDS.items():
        got = machine.run(f"findmnt --noheadings --output FSTYPE --target {path}").checked().strip()
        assert got == (wanted or kind), path
    stack = machine.run("lsblk --noheadings --list --output TYPE --inverse $(findmnt -no SOURCE /var)")
    assert {"lvm", "raid1", "disk"} <= set(stack.checked().split())
    pools = machine.run("dmsetup table --target thin | wc -l").checked().strip()
    assert pools == "1"
    assert machine.run("swapon --show=NAME --noheadings").checked().strip() == "/swapfile"


def _swaps(machine: Machine) -> None:
    """While / is frozen: pages go out to the swap file on it, and come back as they were."""
    numbers = machine.run(MOVER).checked().split()
    back_before, out_before, back, out = map(int, numbers)
    pages = SWAPPED // 4096
    assert out - out_before > pages // 3
    assert back - back_before > pages // 3


def _are_writing_again(machine: Machine) -> None:
    machine.run(
        f"""
        for place in {" ".join(KINDS)}; do
            size=$(stat --format %s $place/appended)
            until [ "$(stat --format %s $place/appended)" -gt "$size" ]; do sleep 0.1; done
        done
        """
    ).checked()


def _proves(machine: Machine, acknowledged: set[int]) -> None:
    """In the VM that was started from the snapshot: all is whole, and nothing that was told is missing."""
    stacks.assemble(machine)
    machine.run("[ ! -e /var/lib/stillframe/outstanding.json ]").checked()
    machine.run(
        f"""
        set -e
        for database in {" ".join(DATABASES)}; do
            mkdir -p "/run/restored${{database%/*}}"
            cp -a "$database"* "/run/restored${{database%/*}}"
        done
        """
    ).checked()
    proof = machine.run("app prove /etc/orders.toml --data /run/restored")
    assert proof.status == 0, proof.output
    for database in DATABASES:
        found = orders.committed(machine, f"/run/restored{database}")
        assert acknowledged <= found, f"{database}: acknowledged commits are missing"


def _is_clean(disk: Path, kind: str) -> None:
    """What / of a VM is after its own recovery, looked at from outside."""
    argv = {"ext4": ["e2fsck", "-f", "-n"], "xfs": ["xfs_repair", "-n", "-f"]}[kind]
    done = subprocess.run([*argv, stacks.raw(disk)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
