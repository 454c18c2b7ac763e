"""Every policy whose server cannot be had here, on a stand-in: held, proven, undone, never just believed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.stage import Cycle, Stage, stage
from tests.integration.strike import check_claims
from tests.standins.case import Case, Wrong
from tests.standins.cases import CASES
from tests.standins.ground import Standin, standin

pytestmark = [pytest.mark.integration]

Start = Callable[[Case], Standin]

HELD = [case for case in CASES if case.held != case.idle]
"""Those that leave a mark on the server."""

FULL = os.environ.get("STILLFRAME_TEST_STANDINS") == "full"
BLOWS = [
    (who, instant)
    for who in ("keeper", "holder", "client")
    for instant in ("quiesced", "mid-hold", "releasing")
    if FULL or (who, instant) in (("keeper", "mid-hold"), ("holder", "quiesced"), ("client", "mid-hold"))
]
"""Who is killed, and when; all of them with STILLFRAME_TEST_STANDINS=full."""


@pytest.fixture(autouse=True)
def _needs_node(request: pytest.FixtureRequest) -> None:
    """JavaScript is evaluated by node."""
    case = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
    if case is not None and case.product == "mongodb" and shutil.which("node") is None:
        pytest.skip("needs node (Debian: nodejs)")


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


@pytest.fixture
def at(here: Stage, request: pytest.FixtureRequest) -> Iterator[Standin]:
    """The stand-in of the case that the test is for."""
    case: Case = request.getfixturevalue("case")
    with standin(here, case.product) as made:
        for name, value in case.more.items():
            made.put(name, value)
        yield made


def policy(at: Standin, case: Case, seconds: float = 0.0, more: str = "") -> Path:
    taken = True if case.confirmed else None
    return at.policy(textwrap.dedent(case.settings(at)), seconds=seconds, more=more, taken=taken)


def client(cycle: Cycle, case: Case) -> int:
    """The process that talks to the server."""
    leader = int(cycle.when("process", role="client")["pid"])
    for folder in Path("/proc").glob("[0-9]*") if case.client else ():
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            group = int((folder / "stat").read_text().rpartition(")")[2].split()[2])
        except OSError:
            continue
        if group == leader and case.client in line and "-c set -a" not in line:
            return int(folder.name)
    if case.client:
        raise ProcessLookupError(case.client)
    return leader


def names(case: Case) -> str:
    return case.name.replace(" ", "-")


@pytest.mark.parametrize("case", CASES, ids=names)
def test_it_is_held_for_the_snapshot(at: Standin, case: Case) -> None:
    cycle = at.stage.start("run", "--json", policy(at, case, 0.5))
    cycle.when("snapshot_begin")
    if case.state:
        assert at.look(case.state) == case.held, at.stage.events()
    assert cycle.wait(30) == 0, cycle.errors + cycle.output
    (report,) = at.stage.reports()
    (application,) = report["applications"]
    assert (report["achieved"], application["held"], application["proven"]) == (case.level, True, "stand-in")
    assert set(case.saved) <= set(application["saved"])
    if case.state:
        assert at.look(case.state) == case.idle
    times = {event["event"]: event["t"] for event in at.stage.events()}
    written = at.written_between(times["quiesced"], times["releasing"])
    assert (written == 0) is case.still, written
    time.sleep(0.1)
    assert at.written_between(times["released"], time.monotonic())
    assert at.report(policy(at, case))[0] == 0


@pytest.mark.parametrize(
    ("case", "wrong"),
    [pytest.param(c, w, id=f"{names(c)}-{w.name.replace(' ', '-')}") for c in CASES for w in c.wrong],
)
def test_a_wrong_answer_is_never_a_hold(at: Standin, case: Case, wrong: Wrong) -> None:
    chosen = policy(at, case, 0.6)
    if wrong.before:
        wrong.before(at)
    cycle = at.stage.start("run", "--json", chosen)
    if wrong.during:
        cycle.when("snapshot_begin")
        wrong.during(at)
    status = cycle.wait(40)
    (report,) = at.stage.reports()
    # A policy that asks for no more than a crash gives gets that, too, where nothing is held.
    assert (status == 0) is (report["requested"] == "crash")
    assert report["achieved"] != "application"
    assert not report["applications"][0]["held"]
    assert wrong.reason in at.because(report)
    if case.state and at.look("up"):
        assert at.look(case.state) == (case.idle if wrong.left is None else wrong.left)


@pytest.mark.parametrize(("who", "instant"), BLOWS)
@pytest.mark.parametrize("case", HELD, ids=names)
def test_a_death_lets_the_server_go(at: Standin, case: Case, who: str, instant: str) -> None:
    if who == "client" and not case.session:
        pytest.skip("no client lives during the hold")
    cycle = at.stage.start("run", "--json", policy(at, case, 1))
    event = {"mid-hold": "snapshot_begin"}.get(instant, instant)
    cycle.when(event)
    if instant == "mid-hold":
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError) if instant == "releasing" else contextlib.nullcontext():
        os.kill(client(cycle, case) if who == "client" else cycle.pid(who), signal.SIGKILL)
    at.wait_for(case.state, case.idle, 5)
    status = cycle.wait(30)
    at.stage.wait_until_free(10)
    if instant != "releasing":
        check_claims(at.stage, cycle, status, who)
    assert at.look(case.state) == case.idle
    assert at.report(policy(at, case))[0] == 0


@pytest.mark.parametrize("case", [c for c in HELD if c.quiesces], ids=names)
def test_a_quiesce_under_way_at_the_death_is_undone(at: Standin, case: Case) -> None:
    """The server carries out what it was asked for after its client died: that is waited for, and undone."""
    at.rig(case.quiesces, delay=1.5)
    cycle = at.stage.start("run", "--json", policy(at, case, 1))
    give_up = time.monotonic() + 10
    while not at.look("running"):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    os.kill(cycle.pid("keeper"), signal.SIGKILL)
    status = cycle.wait(30)
    at.stage.wait_until_free(10)
    assert status != 0
    at.wait_for("running", {}, 10)
    time.sleep(0.3)
    assert at.look(case.state) == case.idle, at.stage.events()


@pytest.mark.parametrize("case", HELD, ids=names)
def test_a_reboot_lets_the_server_go_once(at: Standin, case: Case) -> None:
    cycle = at.stage.start("run", "--json", policy(at, case, 5))
    cycle.when("snapshot_begin")
    victims = [cycle.pid(who) for who in ("keeper", "watchdog", "holder", "app")]
    victims += [client(cycle, case)] if case.session else []
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    cycle.wait(15)
    at.stage.wait_until_free(5)
    shutil.rmtree(at.stage.paths.run)
    before = at.said(case.undone)
    status, output, errors = at.stage.app("recover")
    assert status == 0, output + errors
    assert at.look(case.state) == case.idle
    assert at.said(case.undone) <= before + 1
    assert at.stage.app("recover")[0] == 0
    assert at.said(case.undone) <= before + 1


@pytest.mark.parametrize("name", ["cassandra", "scylla", "elasticsearch", "opensearch"])
@pytest.mark.parametrize("level", ["filesystem", "application"])
def test_nobody_makes_them_say_more(here: Stage, name: str, level: str) -> None:
    ceiling = "crash" if name.endswith("search") else "filesystem"
    chosen = here.policy(f'name = "mine"\nextends = "{name}"\nlevel = "{level}"\n')
    status, output, errors = here.app("validate", chosen)
    if level == ceiling:
        assert status == 0, errors
    else:
        assert status == 3
        assert f"can give {ceiling} at most" in output + errors


ROLES = {"mongodb": ("secondary", False, True), "oracle backup": ("role", "PRIMARY", "PHYSICAL STANDBY")}
"""What of the stand-in says its role: as a primary, as a standby."""


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ROLES], ids=names)
def test_a_policy_for_a_standby_leaves_a_primary_alone(at: Standin, case: Case) -> None:
    name, primary, standby = ROLES[case.name]
    at.put(name, primary)
    status, report = at.report(policy(at, case, more='role = "standby"'))
    (application,) = report["applications"]
    assert (status, application["left_alone"], application["held"]) == (1, True, False)
    assert not at.said(case.quiesces)
    at.put(name, standby)
    status, report = at.report(policy(at, case, more='role = "standby"'))
    assert (status, report["applications"][0]["role"]) == (0, "standby")


@pytest.mark.parametrize("case", [c for c in CASES if c.name == "oracle snapshot"], ids=names)
def test_the_time_of_a_snapshot_is_as_oracle_takes_it(at: Standin, case: Case) -> None:
    """RECOVER ... SNAPSHOT TIME wants 'YYYY-MM-DD:HH24:MI:SS', and is given what the report says."""
    begun = time.time()
    status, report = at.report(policy(at, case, 0.1))
    assert status == 0
    saved = report["applications"][0]["saved"]
    for when in ("before", "after"):
        told = time.mktime(time.strptime(saved[f"time_{when}"], "%Y-%m-%d:%H:%M:%S"))
        assert int(begun) <= told <= time.time()
    assert int(saved["scn_before"]) < int(saved["scn_after"])


@pytest.mark.parametrize("case", [c for c in CASES if c.name == "oracle backup"], ids=names)
def test_a_session_of_the_same_sid_is_not_waited_for(at: Standin, case: Case) -> None:
    """Oracle gives the SID of a session that is gone to the next one, whose work is not ours."""
    at.put("reused", True)
    cycle = at.stage.start("run", "--json", policy(at, case, 1))
    cycle.when("snapshot_begin")
    os.kill(cycle.pid("keeper"), signal.SIGKILL)
    at.wait_for(case.state, case.idle, 5)
    assert cycle.wait(30) != 0
