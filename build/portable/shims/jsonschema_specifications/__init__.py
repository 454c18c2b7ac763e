"""Stands in for jsonschema_specifications: the same schemas, as constants instead of files.

release.spec writes them into ``_stillframe_schemas`` from the package itself. They are looked into only
when a reference leads to them, which no policy's does.
"""

from __future__ import annotations

from _stillframe_schemas import SCHEMAS
from referencing import Resource
from referencing.jsonschema import EMPTY_REGISTRY

__all__ = ["REGISTRY"]

REGISTRY = [Resource.from_contents(contents) for contents in SCHEMAS] @ EMPTY_REGISTRY
