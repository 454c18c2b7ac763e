"""Every way in to a server that is tried: a module in this folder, found by being here."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from tests.integration.secrets.login import Login


@functools.cache
def logins() -> tuple[Login, ...]:
    """All of them, by module and as each lists them."""
    found: list[Login] = []
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda each: each.name):
        found.extend(importlib.import_module(f"{__name__}.{module.name}").LOGINS)
    return tuple(found)
