"""Hazards of our own place on the machine: the run folder, and the time that the freeze will take.

What does not matter here, and why: the binary, its working folder and its libraries (only read, and
reading goes on; memory is locked), a swap file (the kernel writes to its blocks, past the filesystem),
/var/lib and /var/log of ours (written before the freeze and after the thaw).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from app.host.hazards.hazard import Hazard
from app.host.hazards.scene import Scene

ASSUMED_RATE = 60.0
"""MB a second of writeback: what Azure promises for a standard HDD disk (S4 to S50), its slowest kind
(learn.microsoft.com/azure/virtual-machines/disks-types, "Standard HDD size").

Assumed, for what could be measured says less: /proc/vmstat has sums only, whose growth is the load's and not
the disk's; and the kernel's own estimate (BdiWriteBandwidth, in debugfs where that is mounted) follows small
writes, too: of a disk that takes more than 1000 MB/s it was seen to say 9.5. Whoever knows the disk to be
faster says so by ``[hazards] dirty-pages = "ignore"``.
"""

FREE = 4 << 20
"""Bytes that must be free for the journal and the plan: a long hold's are some hundred kilobytes."""


def look(scene: Scene) -> Iterator[Hazard]:
    """Every hazard of this kind."""
    yield from _run_folder(scene)
    yield from _dirty(scene)


def parse_meminfo(text: str) -> dict[str, int]:
    """Bytes by name; lines without kB are left out."""
    return {
        match.group(1): int(match.group(2)) << 10
        for match in re.finditer(r"^([\w()]+):\s+(\d+) kB$", text, re.MULTILINE)
    }


def _run_folder(scene: Scene) -> Iterator[Hazard]:
    folder = os.path.realpath(scene.paths.run)
    mount = scene.mount_of(folder)
    if mount is None:
        return
    frozen = scene.frozen(mount.device)
    cure = "keep /run on tmpfs, or set STILLFRAME_PREFIX to a folder on a tmpfs"
    if frozen is not None:
        yield Hazard(
            "journal-frozen",
            f"{frozen.path}: holds {scene.paths.run}, where the journal is written during the freeze",
            cure,
            path=scene.paths.run,
            mount=frozen.path,
        )
    elif mount.kind not in ("tmpfs", "ramfs"):
        yield Hazard(
            "run-on-disk",
            f"{scene.paths.run} is on {mount.path} ({mount.kind}), not on a tmpfs",
            cure,
            path=scene.paths.run,
        )
    try:
        space = os.statvfs(folder)
    except OSError:
        return  # not made yet
    free = space.f_bavail * space.f_frsize
    if free < FREE:
        yield Hazard(
            "run-full",
            f"{mount.path} has {free >> 10} KB free; {scene.paths.run} may need {FREE >> 10} KB",
            f"mount -o remount,size=64M {mount.path}"
            if mount.kind == "tmpfs"
            else f"make room on {mount.path}",
            path=scene.paths.run,
        )


def _dirty(scene: Scene) -> Iterator[Hazard]:
    """The whole machine's dirty pages: the kernel does not say whose filesystem's they are."""
    if not scene.freezing:
        return
    memory = parse_meminfo(scene.read("/proc/meminfo"))
    dirty = memory.get("Dirty", 0) + memory.get("Writeback", 0)
    megabytes = dirty / 1e6
    seconds = megabytes / ASSUMED_RATE
    if seconds > scene.timeout:
        when = "" if scene.unwritten else " (we write them back first, as far as writers let us)"
        yield Hazard(
            "dirty-pages",
            f"{megabytes:.0f} MB wait to be written, {seconds:.0f} s at {ASSUMED_RATE:g} MB/s; the freeze "
            f"may last {scene.timeout:g} s{when}",
            "sync; and for good: sysctl vm.dirty_bytes=268435456",
        )
