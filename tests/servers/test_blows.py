"""The hold is broken: from the server's side nothing may claim it, from ours nobody may wait for it."""

from __future__ import annotations

import re

import pytest

from tests import scratch
from tests.integration.stage import Stage, stage, write_probe
from tests.integration.strike import LIMIT, check_claims, last_hold, strike, thaw_is_refused
from tests.servers.conftest import pairs
from tests.servers.ground import Ground
from tests.servers.load import Load

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize("grounded", pairs(("ext4",), ways=False), indirect=True)
def test_broken_by_the_server(grounded: Ground, here: Stage) -> None:
    """Whoever ends what we hold, with the server's own means, takes the claim with it."""
    if grounded.engine.unbreakable:
        pytest.skip(grounded.engine.unbreakable)
    with grounded.under_load(here) as writing:
        cycle = here.start(
            "run", "--json", grounded.rehearsal(here, 1.0 + grounded.engine.restart, freeze=False)
        )
        cycle.when("quiesced")
        cycle.when("snapshot_begin")
        reason = grounded.server.break_hold()
        status = cycle.wait(30)
        writing.wait_for(5)
    (report,) = here.reports()
    assert report["achieved"] not in ("application", grounded.engine.level), report
    assert status == report["exit"] != 0
    assert re.search(reason, "; ".join(report["because"])), report["because"]
    assert not report["stuck"]
    assert not here.is_locked()
    assert not grounded.server.contents().broken


@pytest.mark.parametrize("grounded", pairs(("ext4",), ways=False), indirect=True)
def test_killed(grounded: Ground, here: Stage) -> None:
    """SIGKILL of each of ours in turn, amid the hold: within two seconds every writer has written again."""
    with grounded.under_load(here) as writing:
        try:
            for who in grounded.engine.clients:
                with stage(here.command) as own:
                    check_survival(grounded, own, writing, who)
            writing.wait_for(5)
            status, report = here.run(grounded.rehearsal(here, 0))
            assert (status, report["achieved"]) == (0, grounded.engine.level), report
        finally:
            scratch.thaw(grounded.volume.mount)  # a writer that waits for it could not even be killed
    assert not grounded.server.contents().broken


def check_survival(grounded: Ground, here: Stage, writing: Load, who: str) -> None:
    """One blow."""
    mount, restart = grounded.volume.mount, grounded.engine.restart
    cycle = here.start("run", "--json", grounded.rehearsal(here, 0.6))
    struck = strike(cycle, who, "mid-hold")
    thawed = write_probe(mount)(LIMIT)
    status = cycle.wait(20)
    written = writing.first_after(last_hold(here.events(), struck), 5 + restart) - struck
    assert written < LIMIT + restart, (who, here.events())
    assert thaw_is_refused(mount), who
    assert here.wait_until_free(5 + restart) < 3 + restart, who
    check_claims(here, cycle, status, who)
    print(f"{grounded.engine} {who}: thawed {thawed:.3f} s, every writer wrote {written:.3f} s after")
