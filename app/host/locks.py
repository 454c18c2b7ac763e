"""Who holds an fcntl lock (fcntl(2), F_GETLK). Reads only: asking takes nothing."""

from __future__ import annotations

import fcntl
import os
import struct

EXTENSION_FOLDER = "/etc/azure"
"""Where the Azure Backup extension keeps its configuration and its lock."""

EXTENSION_LOCK = "MicrosoftRecoverySvcsSafeFreezeLock/SafeFreezeLockFile"
"""Below that folder; the extension holds it from before its first freeze until after its last thaw."""

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: l_type, l_whence, l_start, l_len, l_pid (64-bit)


def lock_owner(path: str) -> int:
    """Process that holds a lock on the file ``path``, 0 if none does or there is no such file.

    Raises OSError where the file is there and cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return 0
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        return 0 if kind == fcntl.F_UNLCK else int(pid)
    finally:
        os.close(descriptor)
