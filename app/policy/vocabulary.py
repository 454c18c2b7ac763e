"""Words for the policy's schema: a table, a string, a number of seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
"""Part of a class of characters: controls of ASCII and of C1, and what ends a line."""

FULL_PATH = rf"^/(?:[^/{CONTROL}]+(?:/[^/{CONTROL}]+)*)?$"

LISTED_PATH = rf"^/(?:[^,;%#{CONTROL}]*[^\s,;%#{CONTROL}])?$"
"""A path that a list of an INI file can carry: nothing that ends it, no blank that is cut off."""

LARGEST_TIMEOUT = 1800
"""Seconds: what the framework allows for a script, and we for a whole hold."""


def table(
    description: str,
    *,
    required: Sequence[str] = (),
    tables: Mapping[str, Schema] | None = None,
    **properties: Schema,
) -> Schema:
    """A table with these keys and no others; ``tables`` are keys that are no Python names."""
    schema: Schema = {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": {**properties, **(tables or {})},
    }
    return {**schema, "required": list(required)} if required else schema


def string(description: str, **more: Any) -> Schema:
    """A string; ``more`` are further rules of the schema."""
    return {"type": "string", **more, "description": description}


def strings(description: str, **item: Any) -> Schema:
    """A list of strings; ``item`` are rules for each."""
    return {"type": "array", "items": {"type": "string", **item}, "description": description}


def integer(description: str, low: int, high: int) -> Schema:
    """An integer from ``low`` to ``high``."""
    return {"type": "integer", "minimum": low, "maximum": high, "description": description}


def seconds(description: str, high: int = LARGEST_TIMEOUT) -> Schema:
    """A number of seconds, over 0."""
    return {"type": "number", "exclusiveMinimum": 0, "maximum": high, "description": description}
