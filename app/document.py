"""JSON documents as we write them: for people to read, and the same bytes for the same value."""

from __future__ import annotations

import json
from typing import Any


def dump(value: Any) -> str:
    """The text of a document: sorted keys, two spaces of indent, a newline at the end.

    Bytes of a server's answer that are no UTF-8 are kept as lone surrogates (PEP 383) and written as
    their escapes, which json.loads gives back.
    """
    return plain(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)) + "\n"


def plain(text: str) -> str:
    """JSON text with its lone surrogates escaped, which can be encoded as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
