"""What never stands in a journal, a report, a log or an error: the secrets that this process has read.

One list for each process, so that nobody who writes text down has to know whose secret it may hold.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from typing import Any

from app.template import FILTERS
from app.text import printable

MASK = "[secret]"

SHORTEST = 4
"""Characters: a shorter secret could not be told from other text."""

_known: list[str] = []
"""Every form of every secret, longest first."""


def remember(secret: str) -> None:
    """Mask this from now on, also as it looks quoted, escaped or encoded. At least SHORTEST characters."""
    data = secret.encode()
    forms = {
        secret,
        secret.replace("'", "''"),
        secret.replace('"', '""'),
        secret.replace("'", "\\'"),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        *(FILTERS[name](secret).strip('"') for name in ("quoted", "url", "pgpass")),
        binascii.b2a_base64(data, newline=False).decode().rstrip("="),
        binascii.hexlify(data).decode(),
    }
    _known.extend(forms - set(_known))
    _known.sort(key=len, reverse=True)


def mask(text: str) -> str:
    """``text`` with every secret replaced."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def mask_all(value: Any) -> Any:
    """``mask`` for every string in a JSON value."""
    if not _known:
        return value
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {key: mask_all(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask_all(item) for item in value]
    return value


def shorten(text: str, length: int = 300) -> str:
    """One printable line of at most ``length`` characters, masked before it is cut."""
    line = printable(" ".join(mask(text).split())[: length + 1])
    return line if len(line) <= length else line[: length - 3] + "..."


def shorten_to_end(text: str, length: int = 300) -> str:
    """The end of a text as one printable line, masked before it is cut."""
    return printable(" ".join(mask(text).split())[-length:])[-length:]
