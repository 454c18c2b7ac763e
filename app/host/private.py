"""Private files for a program that is about to be started: in memory, nameless, gone with whoever uses them.

They are of the program's user, mode 600, on no disk and in no folder (memfd_create(2)), so nothing has to be
removed however anybody ends. The program finds each at ``/proc/self/fd/N``: it inherits the descriptor.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Mapping, Sequence

from app.errors import HostUnfit
from app.host.process import Account

_CLOEXEC, _ALLOW_SEALING = 1, 2  # include/uapi/linux/memfd.h
_ADD_SEALS, _ALL_SEALS = 1033, 0xF  # include/uapi/linux/fcntl.h
_CALLS = {"x86_64": 319, "aarch64": 279}
"""Numbers of memfd_create: the C library has had it since 2.27 only."""


class PrivateFiles:
    """Files by name, for one user. Raises HostUnfit where the kernel refuses."""

    def __init__(self, contents: Mapping[str, str], account: Account) -> None:
        self._descriptors: dict[str, int] = {}
        try:
            for name, text in contents.items():
                descriptor = _create(name)
                self._descriptors[name] = descriptor
                data = text.encode()
                while data:
                    data = data[os.write(descriptor, data) :]
                os.fchmod(descriptor, 0o600)
                if os.geteuid() == 0:
                    os.fchown(descriptor, account.uid, account.gid)
                fcntl.fcntl(descriptor, _ADD_SEALS, _ALL_SEALS)
        except OSError as error:
            self.close()
            raise HostUnfit(f"a private file cannot be made: {error.strerror}") from error

    @property
    def descriptors(self) -> Sequence[int]:
        """What the program must inherit."""
        return tuple(self._descriptors.values())

    def placed(self, text: str) -> str:
        """``text`` with each ``{name}`` replaced by the path under which the program finds that file."""
        for name, descriptor in self._descriptors.items():
            text = text.replace(f"{{{name}}}", f"/proc/self/fd/{descriptor}")
        return text

    def close(self) -> None:
        """Close the descriptors; a program that inherited them keeps its own."""
        for descriptor in self._descriptors.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._descriptors.clear()


def _create(name: str) -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, _CLOEXEC | _ALLOW_SEALING)
    number = _CALLS.get(os.uname().machine)
    if number is None:
        raise HostUnfit(f"private files are not known on {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.syscall(number, os.fsencode(name), _CLOEXEC | _ALLOW_SEALING)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor
