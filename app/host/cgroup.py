"""Leaving the control group of whoever started us: what ends or stops a whole group must not end all of us.

``systemctl kill``, a unit's stop that took too long, and systemd-oomd end every process of a group at
once, and ``systemctl freeze`` stops them: the holder and its watchdog, too, if they stand in one group.

Sources: Documentation/admin-guide/cgroup-v2.rst (cgroup.procs, cgroup.kill, cgroup.freeze);
Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst; systemd.kill(5); systemd-oomd.service(8);
systemd's docs/CGROUP_DELEGATION.md (on version 1 it keeps its units in the hierarchy ``name=systemd``).
"""

from __future__ import annotations

import os

from app.host.mounts import read_mounts

NAME = "stillframe"
"""Our group, at the top of each hierarchy, where no unit is."""

_STOPPING = frozenset({"name=systemd", "freezer"})
"""Hierarchies of version 1 by which a whole group is ended or stopped; of version 2 there is one only."""


def stand_apart() -> bool:
    """Move this process into a group of our own; whether it left every group that can be ended as one.

    Never raises: without the right, or where the hierarchy is read-only as in a container, it stays.
    """
    try:
        mounts = read_mounts()
    except OSError:
        return False
    hierarchies = [
        mount.path
        for mount in mounts
        if mount.kind == "cgroup2" or (mount.kind == "cgroup" and mount.super_options & _STOPPING)
    ]
    entered = [_enter(path) for path in hierarchies]
    return bool(entered) and all(entered)


def _enter(hierarchy: str) -> bool:
    # A kernel with CONFIG_RT_GROUP_SCHED takes a real-time process at the top only.
    for group in (f"{hierarchy}/{NAME}", hierarchy):
        try:
            if group != hierarchy:
                os.makedirs(group, mode=0o755, exist_ok=True)
            with open(f"{group}/cgroup.procs", "w", encoding="ascii") as file:
                file.write(str(os.getpid()))
        except OSError:
            continue
        return True
    return False
