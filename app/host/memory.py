"""Staying in memory: a page of ours that must be read back from a frozen disk could hold a thaw up."""

from __future__ import annotations

import ctypes

MCL_CURRENT = 1
MCL_ONFAULT = 4
"""include/uapi/asm-generic/mman.h; MCL_ONFAULT since Linux 4.4 (mlockall(2))."""


def stay_resident(*, everything: bool) -> None:
    """Lock this process in memory, as far as we are allowed to.

    ``everything``: also what was never touched yet, which costs some MB; otherwise what is in memory
    now. Never raises: without the right, the kernel decides as for any other process.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if everything or libc.mlockall(MCL_CURRENT | MCL_ONFAULT) != 0:
        libc.mlockall(MCL_CURRENT)
