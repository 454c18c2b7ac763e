"""What the kernel takes by itself: all filesystems written back, frozen at once and thawed at once.

    python kernel_alone.py MOUNT...        prints the seconds from the first FIFREEZE to the last FITHAW

Nobody can be quicker on this machine: no order among the filesystems, no journal, no watchdog, and nothing of
``app``. The kernel's grace periods are expedited meanwhile, as ``app run`` has them (app/host/grace.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator

FIFREEZE = 0xC0045877  # include/uapi/linux/fs.h
FITHAW = 0xC0045878

EXPEDITED = "/sys/kernel/rcu_expedited"

ROUNDS = 3
"""Of syncfs, one after the other."""


def frozen_at_once(mounts: list[str]) -> float:
    """Freeze and thaw; seconds."""
    descriptors = [os.open(mount, os.O_RDONLY) for mount in mounts]
    for _ in range(ROUNDS):
        for descriptor in descriptors:
            ctypes.CDLL(None).syncfs(descriptor)
    begin, all_frozen = threading.Barrier(len(mounts)), threading.Barrier(len(mounts))
    times: list[float] = []

    def serve(descriptor: int) -> None:
        begin.wait()
        times.append(time.monotonic())
        fcntl.ioctl(descriptor, FIFREEZE, 0)
        all_frozen.wait()
        fcntl.ioctl(descriptor, FITHAW, 0)
        times.append(time.monotonic())

    threads = [threading.Thread(target=serve, args=(descriptor,)) for descriptor in descriptors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(times) - min(times)


@contextlib.contextmanager
def _expedited() -> Iterator[None]:
    try:
        setting = os.open(EXPEDITED, os.O_RDWR)
    except OSError:
        yield
        return
    before = os.pread(setting, 16, 0)
    os.pwrite(setting, b"1", 0)
    try:
        yield
    finally:
        os.pwrite(setting, before, 0)
        os.close(setting)


if __name__ == "__main__":
    with _expedited():
        print(frozen_at_once(sys.argv[1:]))
