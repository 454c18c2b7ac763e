"""Reading what somebody else has written: plain files only, and never for ever."""

from __future__ import annotations

import contextlib
import os
import re
import stat

LARGEST_FILE = 16 << 20
"""Bytes that are read of any one file."""


def read_text(path: str, most: int = LARGEST_FILE) -> str:
    """At most so many bytes of a plain file, "" where that cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return ""
    with contextlib.suppress(OSError), open(descriptor, "rb") as file:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return file.read(most).decode("utf-8", "surrogateescape")
    return ""


def link(path: str) -> str:
    """Where a symbolic link leads, "" where that cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def port_in(text: str) -> int:
    """The port that somebody else wrote, 0 where that is none (1 to 65535)."""
    digits = text.strip()
    # Looked at before it is made a number: int() refuses long ones, and takes digits of every script.
    number = int(digits) if re.fullmatch(r"[0-9]{1,5}", digits) else 0
    return number if number < 1 << 16 else 0
