"""Every test of servers runs over every engine; what cannot be had is skipped, with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import scratch
from tests.integration.stage import Stage, stage
from tests.servers.engine import Engine
from tests.servers.engines import engines
from tests.servers.ground import KINDS, Ground, ground, tools_missing

FULL = os.environ.get("STILLFRAME_TEST_SERVERS") == "full"
"""The full form: make test-servers."""


full_form = pytest.mark.skipif(not FULL, reason="of the full form only: make test-servers")
"""For a test that the short form can do without."""


def cycles(engine: Engine) -> int:
    """How many snapshots are taken of an engine on each kind of filesystem."""
    return 20 if FULL else 2 if engine.main else 1


def pairs(kinds: tuple[str, ...] = KINDS, ways: bool = True) -> list[object]:
    """Engines and kinds of filesystems. The short form leaves xfs out, and puts an engine that is not its
    server's default way on ext4 only, or nowhere without ``ways``."""
    return [
        of(engine, kind)
        for engine in engines()
        for kind in kinds
        if FULL or (kind != "xfs" if engine.main else ways and kind == "ext4")
    ]


@pytest.fixture(scope="session")
def grounded(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A running server on a filesystem; parametrised with ``indirect`` by ``pairs``."""
    engine, kind = request.param
    if os.geteuid() != 0:
        missing = "needs root"
    elif engine.heavy and not FULL:
        missing = "of the full form only: make test-servers"
    else:
        missing = tools_missing(kind) or engine.missing()
    if missing:
        pytest.skip(f"{engine}: {missing}")
    with ground(engine, kind) as made:
        yield made


@pytest.fixture
def here(app_command: list[str], grounded: Ground) -> Iterator[Stage]:
    """Where ``app`` runs; the server's filesystem is thawed afterwards, whatever happened."""
    try:
        with stage(app_command) as made:
            yield made
    finally:
        scratch.thaw(grounded.volume.mount)


def of(engine: Engine, kind: str = "ext4", *, only_full: bool = False) -> object:
    """One parameter for ``grounded``, for a test of one engine's own; of the full form only, if so said."""
    marks = [full_form] if only_full else []
    return pytest.param((engine, kind), id=f"{engine.name}-{kind}", marks=marks)
