"""Grace periods of the kernel's RCU: most of the time for which a FIFREEZE holds up writers, if left alone.

freeze_super() (fs/super.c) takes three per-cpu semaphores for writing, and each percpu_down_write() waits for
a grace period, the second and third while writers stand still already. One takes ten milliseconds and
more; expedited, some tens of microseconds, at the price of an interrupt to every processor. ``/sys/kernel/
rcu_expedited`` (kernel/ksysfs.c; rcupdate.rcu_expedited in kernel-parameters.txt) says which, for the whole
machine, and kernel/rcu/sync.c heeds it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

PLACE = "/sys/kernel/rcu_expedited"

Tell = Callable[[bool], None]
"""Told True before we change the kernel's setting, and False once it is as it was."""


class GracePeriods:
    """The kernel's setting, open since before the hold. Without the right to it nothing is changed."""

    def __init__(self, place: str = PLACE) -> None:
        self.descriptors: list[int] = []
        self._changed = False
        with contextlib.suppress(OSError):
            descriptor = os.open(place, os.O_RDWR | os.O_CLOEXEC)
            if os.pread(descriptor, 16, 0).strip() == b"0":
                self.descriptors.append(descriptor)
            else:
                os.close(descriptor)  # they are short already, and not ours to make long

    @contextlib.contextmanager
    def expedited(self, tell: Tell) -> Iterator[None]:
        """Short ones, as long as the context lasts."""
        if not self.descriptors:
            yield
            return
        tell(True)
        self._changed = True
        self._write(b"1")
        try:
            yield
        finally:
            self.settle()
            tell(False)

    def settle(self) -> None:
        """Ordinary ones again, if this process changed them. Never raises."""
        if self._changed:
            self.restore()
            self._changed = False

    def restore(self) -> None:
        """Ordinary ones again, for whoever knows that somebody of ours changed them. Never raises."""
        self._write(b"0")

    def _write(self, value: bytes) -> None:
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.pwrite(descriptor, value, 0)


def restore(place: str = PLACE) -> None:
    """Ordinary ones again, for a hold of ours that had them expedited and died. Never raises."""
    with contextlib.suppress(OSError):
        descriptor = os.open(place, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, b"0", 0)
        finally:
            os.close(descriptor)
