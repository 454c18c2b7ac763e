"""Staying in memory: a page of ours that must be read back from a frozen disk could hold a thaw up."""

from __future__ import annotations

import ctypes
import os

MCL_CURRENT = 1
MCL_FUTURE = 2
"""include/uapi/asm-generic/mman.h"""


def stay_resident() -> None:
    """Lock this process in memory and keep it from the OOM killer, as far as we are allowed to.

    Never raises: without the right, the kernel decides as for any other process.
    """
    ctypes.CDLL(None, use_errno=True).mlockall(MCL_CURRENT)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("-1000" if os.geteuid() == 0 else "0")
    except OSError:
        pass
