"""Policies that are written for the operator: as TOML, commented, and never over a file that is there."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from app.errors import HostUnfit
from app.policy.wording import printable

WIDTH = 100


def comment(*sentences: str) -> str:
    """Lines of a comment; what would end the line is escaped."""
    lines: list[str] = []
    for sentence in sentences:
        lines += textwrap.wrap(printable(sentence), WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def toml(data: Mapping[str, Any]) -> str:
    """TOML of plain data."""
    return tomli_w.dumps(data, multiline_strings=False)


def create(files: Sequence[tuple[str, str]]) -> None:
    """Write new files, all of them or none.

    Raises HostUnfit where one is there already (a link that leads nowhere, too), and where the disk does
    not take them (full, a quota); OSError where a folder cannot be written to.
    """
    there = [path for path, _ in files if os.path.lexists(path)]
    if there:
        raise HostUnfit(
            f"{', '.join(map(printable, there))}: there already; nothing was written",
            "a policy of yours is never overwritten: move it away, or choose another folder or name",
        )
    made: list[str] = []
    try:
        for path, text in files:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o600)
            made.append(path)
            try:
                with open(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:
                reason = f"{printable(path)}: {error.strerror}; nothing was written"
                raise HostUnfit(reason, "make room, or choose another folder") from error
    except BaseException:
        for path in made:
            os.unlink(path)
        raise
