"""Thawing outside a hold: whatever is frozen on this VM, for ``app thaw --all``."""

from __future__ import annotations

import os
import threading

from app.errors import HostUnfit
from app.freeze import thaw_descriptor
from app.host.mounts import FREEZABLE, Mount, read_mounts

SECONDS = 5.0
"""FITHAW waits for a FIFREEZE in progress; longer than this counts as stuck."""


def thaw_everything() -> tuple[list[str], list[str]]:
    """FITHAW on every filesystem that can be frozen; (those that were frozen, those still stuck).

    Whether a filesystem is frozen cannot be asked: FITHAW says EINVAL where it is not (fs/super.c).
    Raises HostUnfit without root.
    """
    if os.geteuid() != 0:
        raise HostUnfit("only root can thaw filesystems", "sudo app thaw")
    once: dict[str, Mount] = {}
    for mount in read_mounts():
        if mount.kind in FREEZABLE:
            once.setdefault(mount.device, mount)
    states: dict[str, str] = {}
    threads = []
    for mount in once.values():
        thread = threading.Thread(target=_thaw, args=(mount, states), daemon=True)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join(SECONDS)
    thawed = [m.path for m in once.values() if states.get(m.path) == "thawed"]
    stuck = [m.path for m in once.values() if states.get(m.path) not in ("thawed", "not frozen")]
    return thawed, stuck


def _thaw(mount: Mount, states: dict[str, str]) -> None:
    try:
        descriptor = os.open(mount.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        states[mount.path] = error.strerror or "cannot be opened"
        return
    try:
        # A filesystem may have been frozen several times over; each freeze needs its thaw.
        state = thaw_descriptor(descriptor)
        states[mount.path] = state
        while state == "thawed":
            state = thaw_descriptor(descriptor)
    finally:
        os.close(descriptor)
