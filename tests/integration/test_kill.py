"""Law 1, on real filesystems under a real writer: any one process may be killed or stopped at any instant.

Within two seconds everything is thawed and released, nothing claims ``application``, and the next
cycle succeeds. The instants are found by following the journal; the recipe sleeps between its steps,
so that there is time to strike.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ledger, scratch
from tests.integration.stage import Stage, first_commit_after, stage, write_probe
from tests.integration.strike import LIMIT, cases, check_claims, last_hold, strike, thaw_is_refused

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

_HELD = ("quiesced", "freezing", "frozen", "snapshot", "mid-hold", "thawed")
STRUCK: dict[str, tuple[str, ...]] = {
    "holder": ("holder-started", "watchdog-started", "connected", "quiescing", *_HELD, "releasing"),
    "watchdog": ("watchdog-started", "keeper-started", "connected", "quiescing", *_HELD, "releasing"),
    "app": ("begun", "holder-started", "connected", "quiescing", *_HELD, "releasing"),
    "keeper": ("keeper-started", "session-started", "connected", "quiescing", *_HELD, "releasing"),
    "client": ("session-started", "connected", "quiescing", "half-quiesced", *_HELD, "releasing"),
}
"""Who is killed, and when. ``app`` is the client program, ``client`` the session's own."""

STOPPED = {
    "holder": ("connected", "quiesced", "freezing", "mid-hold", "releasing"),
    "watchdog": ("connected", "quiesced", "freezing", "frozen", "mid-hold"),
    "keeper": ("connected", "quiesced", "freezing", "mid-hold", "releasing"),
    "client": ("quiesced", "freezing", "mid-hold", "releasing"),
}
"""Who is stopped (SIGSTOP), and when: a stopped process holds all that a dead one lets go of."""

SQLITE = """
name = "orders"
proven = "stand-in"
level = "application"
{timing}
[sqlite]
databases = ["{database}"]

[[quiesce]]
mechanism = "command"
argv = ["sleep", "0.05"]
[[quiesce]]
mechanism = "sqlite"
action = "checkpoint"
[[quiesce]]
mechanism = "command"
argv = ["sleep", "0.05"]
[[quiesce]]
mechanism = "sqlite"
action = "lock"

[[verify]]
mechanism = "sqlite"
action = "verify"
[[verify]]
mechanism = "command"
argv = ["sleep", "0.1"]

[[release]]
mechanism = "command"
argv = ["sleep", "0.2"]
[[release]]
mechanism = "sqlite"
action = "release"
proof = true

[[recover]]
mechanism = "command"
argv = ["true"]
{rest}
"""

TIMING = "[timing]\nquiesce = 10\nretries = 0\nhold = 20\nrelease = 10\n"
REST = '[freeze]\nmounts = ["{mount}"]\ntimeout = 10\n[snapshot]\nprovider = "none"\nseconds = {seconds}\n'


@dataclass(frozen=True, slots=True)
class Ground:
    """A volume, and the folder for ledgers."""

    volume: scratch.Volume

    def database(self, where: Stage) -> Path:
        """A database of each test's own."""
        return self.volume.mount / f"{where.folder.name}.db"

    def policy(self, where: Stage, seconds: float) -> Path:
        rest = REST.format(mount=self.volume.mount, seconds=seconds)
        database = self.database(where)
        return where.policy(SQLITE.format(timing=TIMING, database=database, rest=rest), f"orders-{seconds}")


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with scratch.filesystem("ext4", 256) as volume:
        yield Ground(volume)


@pytest.fixture
def here(app_command: list[str], ground: Ground) -> Iterator[Stage]:
    try:
        with stage(app_command) as made:
            yield made
    finally:
        scratch.thaw(ground.volume.mount)


def check_survival(
    here: Stage, ground: Ground, who: str, instant: str, number: signal.Signals, seconds: float = 0.4
) -> None:
    """The whole of law 1, once. ``seconds``: how long the snapshot takes."""
    mount = ground.volume.mount
    with ledger.Writer("sqlite", str(ground.database(here)), notes=here.folder / "ledger") as writer:
        try:
            cycle = here.start("run", "--json", ground.policy(here, seconds))
            struck = strike(cycle, who, instant, number)
            thawed = write_probe(mount)(LIMIT)
            status = cycle.wait(15)
            freed = here.wait_until_free(5)
            events = here.events()
            released = first_commit_after(writer, last_hold(events, struck), 5) - struck
            assert released < LIMIT, (released, events)
            assert thaw_is_refused(mount)
            assert freed < 3, freed
            check_claims(here, cycle, status, who, number)
            assert here.app("recover")[0] == 0
            status, report = here.run(ground.policy(here, 0))
            assert (status, report["achieved"], report["because"]) == (0, "application", [])
        finally:
            scratch.thaw(mount)  # a writer that waits for it could not even be killed
    print(f"{who} {instant}: thawed {thawed:.3f} s, released {released:.3f} s after")


@pytest.mark.parametrize(("who", "instant"), cases(STRUCK))
def test_killed(here: Stage, ground: Ground, who: str, instant: str) -> None:
    check_survival(here, ground, who, instant, signal.SIGKILL)


@pytest.mark.parametrize("instant", ["quiescing", "freezing", "mid-hold"])
def test_client_program_stopped(here: Stage, ground: Ground, instant: str) -> None:
    """Ctrl-Z: all is undone without it, and reported; going on, it finds so and says so. One report."""
    mount = ground.volume.mount
    with ledger.Writer("sqlite", str(ground.database(here)), notes=here.folder / "ledger") as writer:
        try:
            cycle = here.start("run", "--json", ground.policy(here, 1.5))
            struck = strike(cycle, "app", instant, signal.SIGSTOP)
            write_probe(mount)(LIMIT)
            cycle.when("reported")
            assert first_commit_after(writer, last_hold(here.events(), struck), 5) - struck < LIMIT
            assert thaw_is_refused(mount)
            (report,) = here.reports()
            assert report["achieved"] != "application"
            assert "the client program was stopped" in str(report["because"]), report
            assert here.is_locked(), "it has not ended: nobody else may begin"
            os.kill(cycle.pid("app"), signal.SIGCONT)
            assert cycle.wait(10) == report["exit"] != 0
            assert here.reports() == [report]
            assert not here.is_locked()
        finally:
            scratch.thaw(mount)


@pytest.mark.parametrize(("who", "instant"), cases(STOPPED))
def test_stopped(here: Stage, ground: Ground, who: str, instant: str) -> None:
    # A second of silence is what it takes to be noticed.
    check_survival(here, ground, who, instant, signal.SIGSTOP, seconds=1.7)
