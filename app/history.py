"""Reports kept on disk, numbered, newest last; the oldest go once there are too many."""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any

from app.document import dump
from app.errors import HostUnfit, Misused
from app.paths import Paths

KEPT = 100
"""Reports that are kept."""


def numbers(paths: Paths) -> list[int]:
    """Numbers of the reports there are, ascending."""
    try:
        names = os.listdir(paths.reports)
    except FileNotFoundError:
        return []
    return sorted(int(m.group(1)) for name in names if (m := re.fullmatch(r"(\d{6,})\.json", name)))


def save(paths: Paths, report: dict[str, Any]) -> int:
    """Write a report under the next number, whole or not at all, and prune; raises OSError.

    What savers that were killed left half written goes first: on a full disk its room is needed.
    """
    os.makedirs(paths.reports, mode=0o700, exist_ok=True)
    _sweep(paths)
    known = numbers(paths)
    number = (known[-1] if known else 0) + 1
    temporary = f"{paths.reports}/.{number:06d}.{os.getpid()}"
    try:
        write_private(temporary, dump({"number": number, **report}))
        os.rename(temporary, f"{paths.reports}/{number:06d}.json")
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    for old in known[: max(0, len(known) + 1 - KEPT)]:
        os.unlink(f"{paths.reports}/{old:06d}.json")
    return number


def load(paths: Paths, number: int | None) -> dict[str, Any]:
    """One report, the newest if ``number`` is None. Raises Misused if there is none."""
    known = numbers(paths)
    if not known:
        raise Misused("there is no report yet", "app run, or a backup, makes one")
    wanted = known[-1] if number is None else number
    if wanted not in known:
        raise Misused(f"there is no report {wanted}", f"there are {known[0]} to {known[-1]}")
    try:
        with open(f"{paths.reports}/{wanted:06d}.json", encoding="utf-8") as file:
            report: dict[str, Any] = json.load(file)
    except ValueError as error:
        raise HostUnfit(f"{paths.reports}/{wanted:06d}.json: not a report: {error}") from error
    return report


def _sweep(paths: Paths) -> None:
    """Remove partial reports of savers that are no more; one that cannot be removed harms nothing."""
    for name in os.listdir(paths.reports):
        partial = re.fullmatch(r"\.\d{6,}\.(\d+)", name)
        # One of our own number is of an earlier process that had it: we write one report at a time.
        if partial and (int(partial[1]) == os.getpid() or not os.path.exists(f"/proc/{partial[1]}")):
            with contextlib.suppress(OSError):
                os.unlink(f"{paths.reports}/{name}")


def write_private(path: str, text: str) -> None:
    """Create ``path`` with mode 600 and bring it to the disk; raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
