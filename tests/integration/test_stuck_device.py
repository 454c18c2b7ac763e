"""A device that takes no more writes, during a hold: the writeback or the freeze hangs in the kernel.

The device is a loop device whose file lies on a filesystem that the application freezes while it is
quiesced: to the filesystem above it, that is a disk that no longer answers.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.filesystems import FREEZE_SECONDS, PRESYNC_SECONDS
from app.host import grace
from tests import scratch
from tests.integration.stage import Stage, stage, write_probe

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

LIMIT = 2.0
"""Seconds: law 1."""

POLICY = """
name = "orders"
proven = "stand-in"
level = "application"
[timing]
quiesce = 10
retries = 0
hold = 60
release = 10
[command]
[[quiesce]]
mechanism = "command"
argv = ["{control}", "pause"]
[[release]]
mechanism = "command"
argv = ["{control}", "resume"]
proof = true
[[recover]]
mechanism = "command"
argv = ["{control}", "resume"]
[freeze]
mounts = ["{above}", "{other}"]
[hazards]
loop-file = "ignore"
[snapshot]
provider = "none"
"""

CONTROL = """#!/bin/sh
# Paused, it has written a little more, and the disk beneath it is stuck.
if [ "$1" = pause ] && [ -e {folder}/stuck ]; then
    {write}
    fsfreeze -f {beneath} || exit
fi
echo "$1" >>{folder}/orders
"""


@dataclass(frozen=True, slots=True)
class Pile:
    """A filesystem on another, and one that has nothing to do with them."""

    beneath: scratch.Volume
    above: scratch.Volume
    other: scratch.Volume

    def orders(self, here: Stage, write: str = ":") -> Path:
        """The policy of an application that is paused and resumed; ``write``: what it writes at last."""
        text = CONTROL.format(folder=here.folder, beneath=self.beneath.mount, write=write)
        control = here.program("control", text)
        above, other = self.above.mount, self.other.mount
        return here.policy(POLICY.format(control=control, above=above, other=other))


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pile]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    deep = tmp_path_factory.mktemp("deep")  # so that it is frozen before the one that hangs, or with it
    (deep / "deeper").mkdir()
    with (
        scratch.filesystem("ext4", 512) as beneath,
        scratch.filesystem("ext4", 128, below=beneath.mount) as above,
        scratch.filesystem("ext4", 128, below=deep / "deeper") as other,
    ):
        try:
            yield Pile(beneath, above, other)
        finally:
            scratch.thaw(beneath.mount)


@pytest.fixture
def here(app_command: list[str], pile: Pile) -> Iterator[Stage]:
    try:
        with stage(app_command) as made:
            (made.folder / "stuck").touch()
            yield made
    finally:
        scratch.thaw(pile.beneath.mount)


def _of(events: Any, name: str, **facts: Any) -> float:
    """When the last event of that name and those facts was."""
    return max(
        float(e["t"]) for e in events if e["event"] == name and all(e.get(k) == v for k, v in facts.items())
    )


def _next_one_succeeds(here: Stage, pile: Pile) -> None:
    """Once the device is back nothing is left of the hold that failed."""
    scratch.thaw(pile.beneath.mount)
    here.wait_until_free(5)
    write_probe(pile.above.mount)(LIMIT)
    (here.folder / "stuck").unlink()
    status, report = here.run(here.folder / "policy.toml")
    assert (status, report["achieved"], report["stuck"]) == (0, "application", [])


def test_writeback_that_hangs(here: Stage, pile: Pile) -> None:
    policy = pile.orders(here, f"echo more >{pile.above.mount}/more")
    cycle = here.start("run", "--json", "--quiet", policy)
    asked = cycle.when("quiesced")["t"]
    hung = cycle.when("presync_hung")
    assert cycle.wait(30) == 6, cycle.errors
    ended = time.monotonic()
    assert hung["mount"] == str(pile.above.mount)
    assert PRESYNC_SECONDS - 0.2 < hung["t"] - asked < PRESYNC_SECONDS + 1
    assert ended - hung["t"] < LIMIT, "the program ends, although a syncfs of its does not"
    events = here.events()
    assert not [e for e in events if e["event"] in ("freezing", "frozen")], "nothing was frozen"
    assert _of(events, "released", app="orders") - hung["t"] < LIMIT
    assert (here.folder / "orders").read_text().split() == ["pause", "resume"]
    assert not here.is_locked()
    write_probe(pile.other.mount)(LIMIT)

    report = here.reports()[-1]
    assert (report["achieved"], report["stuck"]) == ("none", [])
    assert any(str(pile.above.mount) in reason and "syncfs" in reason for reason in report["because"])
    entry = next(f for f in report["filesystems"] if f["mount"] == str(pile.above.mount))
    assert not entry["frozen"]
    assert "did not end within 5 s" in entry["reason"]
    flusher = next(e["pid"] for e in events if e["event"] == "process" and e["role"] == "flusher")
    tasks = [
        (t / "stat").read_text().rpartition(")")[2].split()[0]
        for t in Path(f"/proc/{flusher}/task").iterdir()
    ]
    assert "D" in tasks, "it is left behind, waiting for the device"
    _next_one_succeeds(here, pile)
    give_up = time.monotonic() + 5
    while Path(f"/proc/{flusher}").exists() and time.monotonic() < give_up:
        time.sleep(0.02)
    assert not Path(f"/proc/{flusher}").exists(), "it has ended with the device's return"


def test_freeze_that_hangs(here: Stage, pile: Pile) -> None:
    # Nothing is dirty, so that the writeback ends; FIFREEZE writes the superblock all the same.
    cycle = here.start("run", "--json", "--quiet", pile.orders(here))
    hung = cycle.when("freeze_hung")
    asked = _of(here.events(), "freezing")
    assert hung["mount"] == str(pile.above.mount)
    assert hung["t"] - asked < FREEZE_SECONDS + 0.5
    assert cycle.wait(30) == 7, cycle.errors
    events = here.events()
    assert _of(events, "thawed", mount=str(pile.other.mount)) - hung["t"] < LIMIT
    assert _of(events, "released", app="orders") - hung["t"] < LIMIT
    write_probe(pile.other.mount)(LIMIT)
    report = here.reports()[-1]
    assert report["stuck"] == [str(pile.above.mount)]
    assert any(str(pile.above.mount) in reason for reason in report["because"])
    _next_one_succeeds(here, pile)


def test_holder_killed_while_a_freeze_hangs(here: Stage, pile: Pile) -> None:
    if not os.access(grace.PLACE, os.W_OK) or _expedited():
        pytest.skip("the kernel's grace periods are not ours to expedite here")
    cycle = here.start("run", "--json", "--quiet", pile.orders(here))
    cycle.when("freezing", mount=str(pile.above.mount))
    time.sleep(0.3)
    assert _expedited()
    os.kill(cycle.pid("holder"), signal.SIGKILL)
    struck = time.monotonic()
    while _expedited():
        assert time.monotonic() - struck < LIMIT
        time.sleep(0.01)
    cycle.when("undone", seconds=LIMIT)
    assert _of(here.events(), "undone", app="orders") - struck < LIMIT
    assert scratch.thaw(pile.beneath.mount)
    cycle.wait(30)
    _next_one_succeeds(here, pile)


def _expedited() -> bool:
    return Path(grace.PLACE).read_text().strip() == "1"
