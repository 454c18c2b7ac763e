"""What cannot be undone is neither forgotten nor taken for how the application was before."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import scratch
from tests.integration.stage import Stage, stage

pytestmark = pytest.mark.integration

CONTROL = """\
#!/bin/sh
# get | set VALUE | check; a file "deaf" holds how many times "set" fails from now on, "unwell" fails a check.
cd {folder} || exit
case $1 in
get) cat value ;;
set)
    if [ -s deaf ] && [ "$2" != off ]; then
        left=$(($(cat deaf) - 1))
        echo $left >deaf
        [ $left -gt 0 ] || rm deaf
        echo "it does not answer" >&2
        exit 1
    fi
    echo "$2" >value
    ;;
check) [ ! -e unwell ] ;;
esac
"""

POLICY = """
name = "shop"
required = {required}
level = "application"
[[quiesce]]
mechanism = "command"
argv = ["{control}", "get"]
expect = '^\\w+$'
save = "before"
[[quiesce]]
mechanism = "command"
argv = ["{control}", "set", "off"]
[[quiesce]]
mechanism = "command"
argv = ["{control}", "check"]
[[quiesce]]
mechanism = "session"
send = "echo held"
[[verify]]
mechanism = "session"
send = "echo held"
expect = '^held$'
proof = true
[[release]]
mechanism = "command"
argv = ["{control}", "set", "{{before}}"]
[[recover]]
mechanism = "command"
when = {{ before = "." }}
argv = ["{control}", "set", "{{before}}"]
[session]
argv = ["sh"]
mark = "echo {{mark}}"
failed = "^sh: "
[timing]
quiesce = 5
retries = {retries}
hold = 20
release = 3
[freeze]
{freeze}
[snapshot]
provider = "none"
seconds = {seconds}
"""


@dataclass(frozen=True, slots=True)
class Shop:
    """An application with a setting that a hold changes."""

    here: Stage

    @property
    def value(self) -> str:
        return (self.here.folder / "value").read_text().strip()

    def is_deaf(self, times: int) -> None:
        """It does not heed whoever wants to put it back, so many times."""
        (self.here.folder / "deaf").write_text(f"{times}\n")

    def is_well(self, well: bool) -> None:
        """Whether quiescing it succeeds."""
        unwell = self.here.folder / "unwell"
        unwell.unlink(missing_ok=True) if well else unwell.touch()

    def policy(
        self, seconds: float = 0.5, retries: int = 0, required: str = "true", freeze: str = "enabled = false"
    ) -> Path:
        control = self.here.folder / "control"
        return self.here.policy(
            POLICY.format(control=control, seconds=seconds, retries=retries, required=required, freeze=freeze)
        )


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


@pytest.fixture
def shop(here: Stage) -> Shop:
    here.program("control", CONTROL.format(folder=here.folder))
    (here.folder / "value").write_text("on\n")
    return Shop(here)


def test_a_retry_takes_no_leftover_for_how_it_was(here: Stage, shop: Shop) -> None:
    """The first attempt fails half-way, and so does undoing it, once."""
    shop.is_well(False)
    shop.is_deaf(1)
    cycle = here.start("run", "--json", "--quiet", shop.policy(retries=1))
    cycle.when("undo_failed")
    shop.is_well(True)
    assert cycle.wait(30) == 0, cycle.output
    (report,) = here.reports()
    assert report["applications"][0]["held"], report["because"]
    assert report["applications"][0]["saved"]["before"] == "on"
    assert shop.value == "on"


def test_a_lost_session_is_undone_at_the_second_attempt(here: Stage, shop: Shop) -> None:
    shop.is_deaf(1)
    cycle = here.start("run", "--json", "--quiet", shop.policy(seconds=10))
    cycle.when("snapshot_begin")
    os.kill(session_of(here), signal.SIGKILL)
    assert cycle.wait(20) != 0
    (report,) = here.reports()
    assert report["stuck"] == []
    assert [e["event"] for e in here.events() if e["event"] in ("undo_failed", "undone")] == [
        "undo_failed",
        "undone",
    ]
    assert shop.value == "on"


def test_it_stays_known_until_it_is_undone_and_nothing_is_held_before(here: Stage, shop: Shop) -> None:
    """A release that fails for good: said by the exit status, tried again by all who come later."""
    shop.is_deaf(1000)
    status, report = here.run(shop.policy())
    assert (status, report["stuck"], shop.value) == (7, ["shop"], "off")
    status, _, errors = here.app("run", "--quiet", shop.policy())
    assert status == 7
    assert "shop: still as an earlier hold left it" in errors
    assert "app recover" in errors
    assert shop.value == "off"
    assert here.app("recover")[0] == 7
    (here.folder / "deaf").unlink()
    assert here.app("recover")[:2] == (0, "shop: released\n")
    assert shop.value == "on", "by the answer of the hold that had quiesced it"
    status, report = here.run(shop.policy())
    assert report["applications"][0]["held"]


def test_an_operator_may_give_it_up(here: Stage, shop: Shop) -> None:
    shop.is_deaf(1000)
    assert here.run(shop.policy())[0] == 7
    status, output, _ = here.app("recover", "--forget")
    assert (status, output) == (0, "shop: given up, as it is\n")
    (here.folder / "deaf").unlink()
    assert here.app("recover")[:2] == (0, "nothing was left behind\n")
    assert shop.value == "off"
    assert here.run(shop.policy())[1]["applications"][0]["held"]


@pytest.mark.root
def test_an_optional_one_is_undone_after_the_thaw(
    here: Stage, shop: Shop, scratch_ext4: scratch.Volume
) -> None:
    """What undoing it needs may be on what is frozen, and the hold goes on without it."""
    mount = scratch_ext4.mount
    freeze = f'mounts = ["{mount}"]\ntimeout = 10'
    cycle = here.start("run", "--json", "--quiet", shop.policy(1.0, 0, "false", freeze))
    cycle.when("snapshot_begin")
    os.kill(session_of(here), signal.SIGKILL)
    cycle.when("lost")
    cycle.wait(20)
    events = {e["event"]: e["t"] for e in here.events()}
    assert events["snapshot_end"] < events["thawed"] < events["undone"]
    (report,) = here.reports()
    assert (report["achieved"], report["stuck"]) == ("filesystem", [])
    assert shop.value == "on"


def session_of(here: Stage) -> int:
    """The client program that is kept open: it is the first that is started."""
    return next(int(e["pid"]) for e in here.events() if e.get("role") == "client")
