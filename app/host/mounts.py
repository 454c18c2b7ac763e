"""Which filesystems there are, and which of them a hold freezes. Reads only.

Sources: proc(5) on /proc/PID/mountinfo (fields, octal escapes); Documentation/filesystems/proc.rst
of the kernel; for the resource disk, the links that Azure's udev rules make
(/dev/disk/azure/resource-part1, /dev/disk/cloud/azure_resource-part1) and waagent.conf(5)
(ResourceDisk.MountPoint).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from app.errors import HostUnfit
from app.plan import Freeze

FREEZABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "nilfs2", "gfs2"})
"""Filesystem types on disks whose kernel drivers support freezing (super_operations.freeze_fs)."""

_EXTENSION_KINDS = frozenset({"ext3", "ext4", "xfs", "btrfs"})

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "glusterfs", "afs", "fuse.sshfs", "lustre"})

_RESOURCE_LINKS = (
    "/dev/disk/azure/resource-part1",
    "/dev/disk/azure/local/resource-part1",
    "/dev/disk/cloud/azure_resource-part1",
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo, its escapes undone. ``parent``: the identifier of the mount that it is on."""

    identifier: int
    device: str
    root: str
    path: str
    kind: str
    source: str
    options: frozenset[str]
    super_options: frozenset[str]
    parent: int = 0

    @property
    def depth(self) -> int:
        """Number of folders above the mount point; -1 for ``/``."""
        return -1 if self.path == "/" else self.path.count("/")

    @property
    def read_only(self) -> bool:
        """Whether the filesystem itself (not only this mount) is read-only."""
        return "ro" in self.super_options


def unescape(text: str) -> str:
    """Undo the octal escapes of the kernel's tables."""
    raw = re.sub(rb"\\([0-7]{3})", lambda m: bytes((int(m.group(1), 8),)), os.fsencode(text))
    return os.fsdecode(raw)


def parse_mountinfo(text: str) -> list[Mount]:
    """All mounts of a mountinfo text in its order; lines of an unknown shape are left out."""
    mounts = []
    for line in text.split("\n"):
        head, separator, tail = line.partition(" - ")
        fields, rest = head.split(" "), tail.split(" ")
        if not separator or len(fields) < 6 or len(rest) < 3:
            continue
        mounts.append(
            Mount(
                identifier=int(fields[0]),
                device=fields[2],
                root=unescape(fields[3]),
                path=unescape(fields[4]),
                kind=rest[0],
                source=unescape(rest[1]),
                options=frozenset(fields[5].split(",")),
                super_options=frozenset(rest[2].split(",")),
                parent=int(fields[1]),
            )
        )
    return mounts


def read_mounts() -> list[Mount]:
    """All mounts that this process sees."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def select(
    mounts: Iterable[Mount], freeze: Freeze, resource_devices: frozenset[str] = frozenset()
) -> list[Mount]:
    """One mount for each filesystem to freeze, deepest first, ``/`` last.

    Several mounts of one filesystem (bind mounts, subvolumes) count once: as ``/`` if it is mounted
    there, else by a mount of the whole of it, else by the shallowest. With ``freeze.mounts`` empty:
    filesystems on disks that can be written, frozen and reached, no loop device, no resource disk. A
    named mount is taken whatever it is. See ``left_out`` for what ``freeze.skip`` does.

    What the disks beneath are made of (LVM, thin pools, md, dm-crypt) gives no order: freezing a
    filesystem writes to its device and leaves the device itself alone.

    Raises HostUnfit if a named mount is not a mount point, or is of a kind that cannot be frozen.
    """
    if not freeze.enabled:
        return []
    mounts = list(mounts)
    if freeze.mounts:
        # Of two mounts on one path the later hides the earlier.
        by_path = {mount.path: mount for mount in mounts}
        chosen = [_named(by_path, path) for path in freeze.mounts]
    else:
        chosen = [mount for mount in reachable(mounts) if chosen_automatically(mount, resource_devices)]
    skipped = left_out(mounts, freeze.skip)
    once = _one_each(mount for mount in chosen if mount.device not in skipped)
    return sorted(once.values(), key=lambda m: (-m.depth, m.path))


def _one_each(mounts: Iterable[Mount]) -> dict[str, Mount]:
    """By device (major:minor), the mount that its filesystem goes by."""
    once: dict[str, Mount] = {}
    for mount in sorted(mounts, key=lambda m: (m.path != "/", m.root != "/", m.depth, len(m.root), m.path)):
        once.setdefault(mount.device, mount)
    return once


def reachable(mounts: Iterable[Mount]) -> list[Mount]:
    """Those that their path leads to: no other mount lies over them, or over a folder on the way."""
    mounts = list(mounts)
    by_identifier = {mount.identifier: mount for mount in mounts}
    upon: dict[int, dict[str, list[Mount]]] = {}
    for mount in mounts:
        upon.setdefault(mount.parent, {}).setdefault(mount.path, []).append(mount)

    def hidden(mount: Mount, above: Mount | None = None) -> bool:
        over = upon.get(mount.identifier, {}).get(mount.path, ())
        parent = by_identifier.get(mount.parent)
        if any(other is not above and other is not mount for other in over):
            return True
        if parent is None or parent is mount:
            return False
        folder = os.path.dirname(mount.path)
        while len(folder) > len(parent.path):
            if folder in upon[parent.identifier]:
                return True
            folder = os.path.dirname(folder)
        return hidden(parent, mount)

    # Where two lie on one folder of one parent, which propagation can bring about, the later counts.
    return list({mount.path: mount for mount in mounts if not hidden(mount)}.values())


def left_out(mounts: Iterable[Mount], skip: Iterable[str]) -> frozenset[str]:
    """Devices (major:minor) of the filesystems that ``freeze.skip`` leaves out.

    A filesystem is frozen as a whole or not at all. So naming a mount that shows a part of it (a bind
    mount of a folder, a subvolume) leaves it out only if it goes by that mount, or if no other mount
    shows more: who skips ``/home`` does not skip ``/``, of which it is a subvolume.
    """
    mounts = reachable(mounts)
    named = {_normal(path) for path in skip}
    ones = _one_each(mounts)
    found = set()
    for mount in mounts:
        if mount.path in named:
            whole = mount.root.rstrip("/")
            others = (m.root for m in mounts if m.device == mount.device)
            covers = all(root == mount.root or root.startswith(f"{whole}/") for root in others)
            if covers or ones[mount.device] is mount:
                found.add(mount.device)
    return frozenset(found)


def select_for_extension(
    mounts: Iterable[Mount], freeze: Freeze, resource_devices: frozenset[str] = frozenset()
) -> list[Mount]:
    """What the Azure Backup extension freezes by itself: it knows of no list but the one to skip."""
    chosen = select(mounts, replace(freeze, mounts=()), resource_devices)
    return [mount for mount in chosen if mount.kind in _EXTENSION_KINDS]


def _normal(path: str) -> str:
    return "/" if path.strip("/") == "" else path.rstrip("/")


def _named(by_path: dict[str, Mount], path: str) -> Mount:
    mount = by_path.get(_normal(path))
    if mount is None:
        raise HostUnfit(
            f"freeze.mounts: {path} is not a mount point", "findmnt lists the mount points of this machine"
        )
    if mount.kind in NETWORK or mount.kind in {"tmpfs", "proc", "sysfs", "overlay", "devtmpfs", "squashfs"}:
        raise HostUnfit(
            f"freeze.mounts: {path} is {mount.kind}, which cannot be frozen", "leave it out of freeze.mounts"
        )
    return mount


def chosen_automatically(mount: Mount, resource_devices: frozenset[str] = frozenset()) -> bool:
    """Whether ``mounts = "auto"`` means this one: on a disk of this VM, can be written to and frozen."""
    if mount.kind not in FREEZABLE or mount.read_only or not mount.source.startswith("/dev/"):
        return False
    if mount.source.startswith("/dev/loop"):
        return False
    return mount.device not in resource_devices


def resource_devices(mounts: Iterable[Mount], waagent: str = "/etc/waagent.conf") -> frozenset[str]:
    """Devices (major:minor) of Azure's temporary resource disk, which no backup covers."""
    points = {"/mnt/resource"}
    try:
        with open(waagent, encoding="utf-8", errors="replace") as file:
            points.update(re.findall(r"^\s*ResourceDisk\.MountPoint\s*=\s*(\S+)", file.read(), re.MULTILINE))
    except OSError:
        pass
    links = {os.path.realpath(link) for link in _RESOURCE_LINKS if os.path.exists(link)}
    found = set()
    for mount in mounts:
        warned = (
            os.path.exists(f"{mount.path}/DATALOSS_WARNING_README.txt")
            if mount.path.startswith("/mnt")
            else False
        )
        if mount.path in points or os.path.realpath(mount.source) in links or warned:
            found.add(mount.device)
    return frozenset(found)


def open_mount(mount: Mount) -> int:
    """A descriptor on the filesystem of ``mount``, for the ioctls; the caller closes it.

    Raises HostUnfit if the path now leads to another mount, as when something was mounted over it.
    """
    try:
        descriptor = os.open(mount.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise HostUnfit(f"{mount.path}: cannot be opened to be frozen: {error.strerror}") from error
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        found = re.search(r"^mnt_id:\s*(\d+)", file.read(), re.MULTILINE)
    if found and int(found.group(1)) != mount.identifier:
        os.close(descriptor)
        raise HostUnfit(f"{mount.path}: another filesystem is mounted there now", "run again")
    return descriptor
