"""Noticing new names in a folder, by inotify(7): also of what came and went between two looks."""

from __future__ import annotations

import ctypes
import os
import struct

_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC  # IN_NONBLOCK, IN_CLOEXEC: include/uapi/linux/inotify.h
_CREATE, _MOVED_TO, _OVERFLOW, _ONLYDIR = 0x100, 0x80, 0x4000, 0x01000000
_EVENT = struct.Struct("iIII")


class Arrivals:
    """The names that come up in one folder. Raises OSError where the folder cannot be watched."""

    def __init__(self, folder: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(_NONBLOCK | _CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
        wanted = _CREATE | _MOVED_TO | _ONLYDIR
        if libc.inotify_add_watch(self._descriptor, os.fsencode(folder), wanted) < 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, os.strerror(number), folder)

    def take(self) -> set[str] | None:
        """The names since the last call; None if there were more than the kernel could keep."""
        names: set[str] = set()
        complete = True
        while True:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return names if complete else None
            while data:
                _, mask, _, length = _EVENT.unpack_from(data)
                complete = complete and not mask & _OVERFLOW
                names.add(os.fsdecode(data[_EVENT.size : _EVENT.size + length].rstrip(b"\0")))
                data = data[_EVENT.size + length :]

    def close(self) -> None:
        """Close the descriptor; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
