"""A place for each test, and a secret that is looked for."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator

import pytest

from app import masking
from tests.integration.secrets.hiding import new_canary
from tests.integration.stage import Stage, stage


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """What a test's own process has read is no secret to the next one."""
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    yield
    masking._known.clear()
    resource.setrlimit(resource.RLIMIT_CORE, limit)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


@pytest.fixture
def canary() -> str:
    """A new password."""
    return new_canary()
