"""No commit that was acknowledged before the hold is missing from a snapshot, and none is there by half.

Every engine's server is written to by several processes at once, and snapshotted at random moments. Each
snapshot is started by ``app prove`` and by ourselves, checked by the engine's own tool, and its tables are
held against the writers' ledgers, which are on another filesystem.
"""

from __future__ import annotations

import json
import random
import time

import pytest

from tests.integration.stage import Event, Stage
from tests.servers.conftest import cycles, pairs
from tests.servers.ground import Ground

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]


def at(events: list[Event], name: str) -> float:
    """When an event happened first."""
    return float(next(e["t"] for e in events if e["event"] == name))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("grounded", pairs(), indirect=True)
def test_snapshots_under_load(grounded: Ground, here: Stage) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    moments = random.Random(seed)
    for number in range(cycles(grounded.engine)):
        check_cycle(grounded, here, number, moments.uniform(0.0, 0.7))


def check_cycle(grounded: Ground, here: Stage, number: int, pause: float) -> None:
    """One snapshot ``pause`` seconds into the load, and all that must be true of it."""
    engine, server = grounded.engine, grounded.server
    chosen = grounded.snapshot(here)
    with grounded.under_load(here) as writing:
        writing.wait_for(10)
        time.sleep(pause)
        status, report = here.run(chosen)
        writing.wait_for(5)
    events, entries = here.events(), writing.entries
    told = f"{report['because']} {events}"
    assert (status, report["achieved"], report["because"]) == (0, engine.level, []), told
    held, ended = at(events, "quiesced"), at(events, "releasing")
    if engine.blocks:
        during = [e for e in entries if e.sent > held and e.acknowledged < ended]
        assert not during, f"acknowledged while all writers were blocked: {during[:5]}"
    with grounded.copy(report) as data:
        before = time.monotonic()
        status, output, errors = here.app("prove", chosen, "--data", data, "--json")
        assert status == 0, errors + output
        assert json.loads(output)["proven"]
        proven = time.monotonic() - before
        with engine.server(data, make=False) as copy:
            copy.check()
            found = copy.contents()
    assert not found.broken
    # Of what blocks writers, whatever was acknowledged before the release was committed before the hold.
    must = grounded.acknowledged_before(ended if engine.blocks else held)
    assert len(must) > 30
    assert not must - found.commits, f"{len(must - found.commits)} acknowledged commits are missing"
    late = {e.number for e in entries if e.sent > at(events, "snapshot_end")}
    assert late and not late & found.commits, "the copy holds what was written after the snapshot"
    unknown = found.commits - {e.number for each in grounded.loads for e in each.entries}
    assert len(unknown) <= len(grounded.loads) * len(writing.writers), "more than what was under way"
    assert not server.contents().broken
    print(
        f"{engine} {grounded.volume.kind} {number}: {len(must)} acknowledged, {len(found.commits)} there, "
        f"held after {held - at(events, 'begin'):.3f} s for {ended - held:.3f} s, proven in {proven:.1f} s"
    )
