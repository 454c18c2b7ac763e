"""Volumes upon volumes for a guest: five disks, and what ``guest/stacks`` makes of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.vm.machine import Machine

MEGABYTES = {"pool": 256, "left": 704, "right": 704, "opt-left": 128, "opt-right": 128}
"""The disks, in the order in which the guest names them: after root and data, so vdc to vdg."""

MIRRORS = {"/dev/md/d": ("left", "right"), "/dev/md/f": ("opt-left", "opt-right")}


def blank(place: Path) -> dict[str, Path]:
    """Empty disks."""
    disks = {}
    for name, megabytes in MEGABYTES.items():
        disks[name] = place / f"{name}.img"
        with disks[name].open("wb") as file:
            file.truncate(megabytes << 20)
    return disks


def make(machine: Machine) -> None:
    """Make all of it, mounted."""
    machine.run("stacks make", 180).checked()


def assemble(machine: Machine) -> None:
    """In a VM that was started from a snapshot: all of it, checked before it is mounted."""
    for verb in ("assemble", "check", "mount"):
        machine.run(f"stacks {verb}", 180).checked()


def mirrors_are_alike(machine: Machine, snapshot: dict[str, Path]) -> None:
    """The halves of each mirror are the same, byte by byte, before any md has seen them again.

    Raises CalledProcessError. ``machine``: where the mirrors run, which knows where their data begins.
    """
    for array, (left, right) in MIRRORS.items():
        folder = f"/sys/block/$(basename $(readlink -f {array}))/md"
        sectors, kilobytes = machine.run(f"cat {folder}/rd0/offset {folder}/component_size").checked().split()
        offset, length = int(sectors) * 512, int(kilobytes) * 1024
        halves = [raw(snapshot[name]) for name in (left, right)]
        subprocess.run(["cmp", f"--ignore-initial={offset}", f"--bytes={length}", *halves], check=True)
        with halves[0].open("rb") as file:
            file.seek(offset)
            assert any(file.read(1 << 16)), "nothing is there to compare"


def raw(disk: Path) -> Path:
    """A copy of a disk without any format of qemu's, beside it."""
    copy = disk.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, copy], check=True)
    return copy
