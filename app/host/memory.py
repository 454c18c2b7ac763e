"""Staying in memory: a page of ours that must be read back from a frozen disk could hold a thaw up."""

from __future__ import annotations

import ctypes
import os

MCL_CURRENT = 1
MCL_ONFAULT = 4
"""include/uapi/asm-generic/mman.h; MCL_ONFAULT since Linux 4.4 (mlockall(2))."""


def stay_resident(*, everything: bool) -> None:
    """Lock this process in memory and keep it from the OOM killer, as far as we are allowed to.

    ``everything``: also what was never touched yet, which costs some MB; otherwise what is in memory
    now. Never raises: without the right, the kernel decides as for any other process.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if everything or libc.mlockall(MCL_CURRENT | MCL_ONFAULT) != 0:
        libc.mlockall(MCL_CURRENT)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("-1000" if os.geteuid() == 0 else "0")
    except OSError:
        pass
