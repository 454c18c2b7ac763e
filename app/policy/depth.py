"""How deep a policy is nested, and where: looked at before tomllib needs memory or stack for it."""

from __future__ import annotations

import re
import sys
from typing import Any

from app.policy.locate import Node

DEEPEST = 24
"""Tables and arrays within each other, and parts of one key; the language itself needs eight."""

# Whatever stands in the text one of these matches, so that the time is that of its length. Atomic groups,
# and not possessive repeats: Python 3.11 gets those wrong around a lookahead.
_TOKEN = re.compile(
    r'''
    (?P<string> """(?>(?:[^"\\]|\\.|"(?!""))*)(?:"{3,5}|\Z) | \'\'\'(?>(?:[^']|'(?!''))*)(?:'{3,5}|\Z) )
    | (?P<part> "(?>(?:[^"\\\n]|\\.)*)"? | '[^'\n]*'? | [A-Za-z0-9_-]+ )
    | (?P<dot> \. )
    | (?P<blank> [ \t]+ )
    | (?P<other> \#[^\n]* | . )
    ''',
    re.VERBOSE | re.DOTALL,
)


def long_key_line(text: str) -> int | None:
    """The line of the first key of more than DEEPEST parts; None if there is none.

    tomllib keeps every beginning of a key: the memory for one grows with the square of its parts.
    """
    # A key is never broken over lines.
    if all(line.count(".") < DEEPEST for line in text.split("\n")):
        return None
    parts, joined = 0, True
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "part":
            parts = parts + 1 if joined else 1
            joined = False
        elif kind == "dot":
            joined = True
        elif kind != "blank":
            if parts > DEEPEST and token.group() in ("=", "]"):
                return text.count("\n", 0, token.start()) + 1
            parts, joined = 0, True
    return None


def is_too_deep(data: Any) -> bool:
    """Whether parsed data is nested deeper than DEEPEST."""
    # Not recursive: what is measured may be deeper than Python's own stack.
    pending = [(data, 1)]
    while pending:
        value, depth = pending.pop()
        if depth > DEEPEST:
            return True
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        pending.extend((item, depth + 1) for item in items)
    return False


def deep_line(root: Node) -> int | None:
    """The first line on which something stands deeper than DEEPEST, as far as it could be placed."""
    pending, lines = [(root, 1)], []
    while pending:
        node, depth = pending.pop()
        if depth > DEEPEST:
            lines.append(node.line)
        else:
            pending.extend((child, depth + 1) for child in node.children.values())
    return min(lines, default=None)


def long_number_line(text: str) -> int | None:
    """The line of the first value that has more digits than Python reads."""
    most = sys.get_int_max_str_digits()
    for found in re.finditer(r"[=,\[\n][ \t]*[+-]?((?>[0-9](?:_?[0-9])*))", text):
        if len(found[1].replace("_", "")) > most:
            return text.count("\n", 0, found.start(1)) + 1
    return None
