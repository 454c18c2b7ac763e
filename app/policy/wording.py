"""How problems are put into words: key paths, values, near misses."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection

from app.policy.locate import Key
from app.text import printable

__all__ = ["dotted", "nearest", "printable", "seconds", "show"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST = 60


def dotted(path: tuple[Key, ...]) -> str:
    """A key path as people write it: ``choose[0].quiesce[1].send``."""
    out = ""
    for key in path:
        if isinstance(key, int):
            out += f"[{key}]"
        else:
            name = key if _BARE.fullmatch(key) else printable(json.dumps(key, ensure_ascii=False))
            out += f".{name}" if out else name
    return out


def show(value: object) -> str:
    """A value from a policy, short and on one line."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        text = printable(json.dumps(value, ensure_ascii=False))
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(show(item) for item in value[:4]) + (", ...]" if len(value) > 4 else "]")
    else:
        text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def nearest(word: str, known: Collection[str]) -> str:
    """A hint for an unknown word: the nearest known one, or all of them."""
    close = difflib.get_close_matches(word[:_LONGEST], sorted(known), n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(sorted(known))}" if known else ""


def seconds(value: float) -> str:
    """Seconds without a needless fraction."""
    return f"{value:g}"
