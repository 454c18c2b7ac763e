"""A file to be written: path as the running VM sees it, exact mode, content."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class File:
    """``path`` is absolute and as the running VM sees it; ``mode`` is exact, whatever the umask."""

    path: str
    mode: int
    content: bytes
