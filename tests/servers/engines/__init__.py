"""Every engine there is: a module in this folder, found by being here."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from tests.servers.engine import Engine


@functools.cache
def engines() -> tuple[Engine, ...]:
    """All engines, by module and as each lists them."""
    found: list[Engine] = []
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda each: each.name):
        found.extend(importlib.import_module(f"{__name__}.{module.name}").ENGINES)
    names = [engine.name for engine in found]
    assert len(set(names)) == len(names), names
    return tuple(found)


def engine(name: str) -> Engine:
    """The engine of that name. Raises KeyError."""
    return {each.name: each for each in engines()}[name]
