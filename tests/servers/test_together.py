"""Five servers of five kinds in one hold, all of them written to: held, frozen, released, and killed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests import scratch
from tests.integration.stage import Event, Stage, stage, write_probe
from tests.integration.strike import LIMIT, check_claims, last_hold, strike
from tests.servers.bench import first_of
from tests.servers.conftest import full_form
from tests.servers.ground import TIMING, Ground, ground
from tests.servers.load import Load, load

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def five() -> Iterator[list[Ground]]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    engines = first_of(5)
    if len(engines) < 5:
        pytest.skip(f"needs five servers, and there are {engines}")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ground(engine, "ext4")) for engine in engines]


@pytest.fixture
def here(app_command: list[str], five: list[Ground]) -> Iterator[Stage]:
    try:
        with stage(app_command) as made:
            yield made
    finally:
        for on in five:
            scratch.thaw(on.volume.mount)


def policies(here: Stage, five: Sequence[Ground], seconds: float) -> list[Path]:
    """A policy for each; their filesystems are frozen for so many seconds, and nobody takes a snapshot."""
    mounts = [str(on.volume.mount) for on in five]
    rest = f'[freeze]\nmounts = {mounts}\ntimeout = 30\n[snapshot]\nprovider = "none"\nseconds = {seconds}\n'
    return [
        here.policy(on.engine.operator(on.server) + TIMING + rest.replace("'", '"'), on.engine.name)
        for on in five
    ]


@contextlib.contextmanager
def written_to(here: Stage, five: Sequence[Ground]) -> Iterator[list[Load]]:
    """One writer at each."""
    with contextlib.ExitStack() as stack:
        loads = [
            stack.enter_context(load(on.engine, on.server, here.folder, next(on.runs), writers=1))
            for on in five
        ]
        yield loads


def at(events: Sequence[Event], name: str, app: str) -> float:
    """When that happened to that application."""
    return float(next(e["t"] for e in events if e["event"] == name and e.get("app") == app))


def test_all_are_held(five: list[Ground], here: Stage) -> None:
    """Side by side, each with its own proof; none of those that block writers acknowledged a commit."""
    with written_to(here, five) as loads:
        for each in loads:
            each.wait_for(20)
        status, report = here.run(*policies(here, five, 0.3))
        for each in loads:
            each.wait_for(5)
    assert (status, report["achieved"], report["because"]) == (0, "application", []), report
    assert {a["name"]: a["held"] for a in report["applications"]} == {on.engine.name: True for on in five}
    events = here.events()
    for on, each in zip(five, loads, strict=True):
        held, ended = at(events, "quiesced", on.engine.name), at(events, "releasing", on.engine.name)
        during = [e for e in each.entries if e.sent > held and e.acknowledged < ended]
        assert not (during and on.engine.blocks), (on, during[:3])
        assert not on.server.contents().broken
    begun = [at(events, "quiescing", on.engine.name) for on in five]
    assert max(begun) < min(at(events, "quiesced", on.engine.name) for on in five), "one after the other"


@pytest.mark.parametrize(
    "who", ["holder", *(pytest.param(who, marks=full_form) for who in ("watchdog", "app"))]
)
def test_killed(five: list[Ground], here: Stage, who: str) -> None:
    """SIGKILL while five are held and frozen: all are thawed and written to again within two seconds."""
    with written_to(here, five) as loads:
        cycle = here.start("run", "--json", *policies(here, five, 0.8))
        struck = strike(cycle, who, "mid-hold")
        probes = [write_probe(on.volume.mount) for on in five]
        thawed = max(probe(LIMIT) for probe in probes)
        status = cycle.wait(20)
        from_then = last_hold(here.events(), struck)
        written = max(each.first_after(from_then, 5) for each in loads) - struck
        assert written < LIMIT, here.events()
        assert here.wait_until_free(5) < 3
        check_claims(here, cycle, status, who, signal.SIGKILL)
    print(f"{who}: thawed {thawed:.3f} s, all wrote {written:.3f} s after")
