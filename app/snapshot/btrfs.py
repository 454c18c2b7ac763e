"""``btrfs``: a read-only (or writable) snapshot of one subvolume, by one ioctl.

btrfs makes the snapshot itself consistent: creating one flushes the subvolume's dirty data and
commits a transaction, so the filesystem is not frozen, and must not be: the ioctl needs to write.

Sources: include/uapi/linux/btrfs.h (struct btrfs_ioctl_vol_args_v2, BTRFS_IOC_SNAP_CREATE_V2,
BTRFS_SUBVOL_RDONLY, BTRFS_FIRST_FREE_OBJECTID), fs/btrfs/ioctl.c create_snapshot().
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Mapping
from typing import Any

from app.errors import HostUnfit, SnapshotFailed
from app.host import trust
from app.plan import Level, Options
from app.snapshot import Context, Taken

_SNAP_CREATE_V2 = 0x50009417
_ARGUMENTS = struct.Struct("=qQQ32x4040s")  # fd, transid, flags, unused, name and its terminator
_READ_ONLY = 1 << 1
_FIRST_FREE = 256
_SUPER_MAGIC = 0x9123683E  # include/uapi/linux/magic.h

OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["source", "destination"],
    "properties": {
        "source": {"type": "string", "pattern": "^/", "description": "the subvolume, by its path"},
        "destination": {
            "type": "string",
            "pattern": "^/",
            "description": "an existing folder on the same btrfs, writable by root only, for the snapshot",
        },
        "read_only": {"type": "boolean", "description": "true if absent"},
    },
}


class BtrfsSnapshot:
    """One snapshot, named after the hold."""

    needs_freeze = False
    freezes_itself = False
    takes_snapshot = True
    unfrozen_level = Level.FILESYSTEM

    def __init__(self, options: Options) -> None:
        self._options = options
        self._source = -1
        self._destination = -1

    def prepare(self, context: Context) -> None:
        """Open both folders and see that they can serve."""
        source, destination = self._options["source"], self._options["destination"]
        try:
            self._source = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HostUnfit(f"snapshot.source: {source}: {error.strerror}") from error
        status = os.fstat(self._source)
        if status.st_ino != _FIRST_FREE or _kind(source) != "btrfs":
            raise HostUnfit(
                f"snapshot.source: {source} is not a btrfs subvolume",
                "btrfs subvolume list shows those there are",
            )
        self._destination = trust.open_folder(destination)
        if os.path.lexists(f"{destination}/{context.name}"):
            raise HostUnfit(f"{destination}/{context.name} exists already")

    def take(self, context: Context) -> Taken:
        """One ioctl."""
        flags = _READ_ONLY if self._options.get("read_only", True) else 0
        # Mutable, because fcntl.ioctl copies an immutable argument into a buffer of 1024 bytes.
        arguments = bytearray(_ARGUMENTS.pack(self._source, 0, flags, context.name.encode()))
        try:
            fcntl.ioctl(self._destination, _SNAP_CREATE_V2, arguments)
        except OSError as error:
            why = "they are on different filesystems" if error.errno == errno.EXDEV else error.strerror
            raise SnapshotFailed(f"btrfs could not make the snapshot {context.name}: {why}") from error
        where = f"{self._options['destination']}/{context.name}"
        return Taken(where, manifest=f"{where}.manifest.json")

    def finish(self, context: Context, taken: Taken | None) -> Mapping[str, Any]:
        """Close both folders."""
        for descriptor in (self._source, self._destination):
            if descriptor >= 0:
                os.close(descriptor)
        self._source = self._destination = -1
        return {}


def _kind(path: str) -> str:
    """Filesystem type of the mount that holds ``path``."""
    from app.host.mounts import read_mounts

    real = os.path.realpath(path)
    holding = [m for m in read_mounts() if real == m.path or real.startswith(m.path.rstrip("/") + "/")]
    # Of several mounts on one path, the last hides the others.
    return max(reversed(holding), key=lambda m: len(m.path)).kind if holding else ""


def provider(options: Options) -> BtrfsSnapshot:
    """The provider for these options."""
    return BtrfsSnapshot(options)
