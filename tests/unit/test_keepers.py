"""The order among applications and their keepers, with keepers of the test's own at the other end."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.host.fork import Child
from app.journal import Journal
from app.keepers import Keepers
from app.paths import paths
from app.plan import Outcome
from tests.unit import plans


class Keeper:
    """The far end of one channel."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.far.setblocking(False)

    def says(self, event: str, **facts: Any) -> None:
        self.far.send(json.dumps({"event": event, **facts}).encode())

    def done(self, order: str, *, ok: bool = True) -> None:
        self.says("done", order=order, ok=ok, reason="" if ok else "no")

    def told(self) -> list[str]:
        """Orders since the last call."""
        orders = []
        while True:
            try:
                orders.append(json.loads(self.far.recv(1 << 16))["do"])
            except BlockingIOError:
                return orders


class Ground:
    """Two applications that do not wait for each other, both connected."""

    def __init__(self, folder: Path) -> None:
        self.lost: list[str] = []
        self.deadlines: list[float] = []
        self.frozen = False
        plan = plans.plan(plans.application("db"), plans.application("web"))
        journal = Journal(str(folder / "journal"), fresh=True)
        where = paths({"STILLFRAME_PREFIX": str(folder)})
        self.keepers = Keepers(
            plan,
            journal,
            where,
            lambda message: None,
            self.lost.append,
            lambda: self.deadlines.append(self.keepers.deadline()),
            lambda: not self.frozen,
        )
        self.far = {"db": Keeper(), "web": Keeper()}
        for kept in self.keepers._all:
            kept.child = Child(0, self.far[kept.name].near)
        self.keepers.connect()
        self.hear("connect")

    def hear(self, order: str, *names: str, ok: bool = True) -> None:
        """These keepers (absent: both) have done what they were told."""
        for name in names or self.far:
            self.far[name].told()
            self.far[name].done(order, ok=ok)
            kept = next(k for k in self.keepers._all if k.name == name)
            self.keepers.heed(kept)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    for keeper in made.far.values():
        keeper.near.close()
        keeper.far.close()


def test_one_after_the_other(ground: Ground) -> None:
    assert not ground.keepers.quiesce()
    ground.hear("quiesce")
    assert ground.keepers.quiesce()
    ground.keepers.abandon()
    ground.keepers.verify(broken=False)
    ground.hear("verify")
    assert not ground.keepers.release(Outcome.NONE)
    ground.hear("release")
    assert ground.keepers.release(Outcome.NONE)


@pytest.mark.parametrize("broken", [True, False])
def test_quiesced_just_as_all_is_given_up(ground: Ground, broken: bool) -> None:
    """Its answer crosses our order to abandon, after the others were asked for their proofs."""
    ground.keepers.quiesce()
    ground.hear("quiesce", "web")
    ground.keepers.abandon()
    ground.keepers.verify(broken=broken)
    ground.hear("quiesce", "db")
    if not broken:
        ground.hear("verify", "web")
    assert not ground.keepers.release(Outcome.NONE)
    assert [keeper.told() for keeper in ground.far.values()] == [["release"], ["release"]]
    ground.hear("release")
    assert ground.keepers.release(Outcome.NONE)
    assert ground.lost == []


def test_a_deadline_ends_with_its_hold(ground: Ground) -> None:
    """Of an application that is lost, or released, it must not end the hold of the others."""
    ground.keepers.quiesce()
    ground.hear("quiesce")
    assert ground.keepers.quiesce()
    ground.far["db"].says("lost", reason="gone")
    ground.keepers.heed(next(k for k in ground.keepers._all if k.name == "db"))
    web = next(k for k in ground.keepers._all if k.name == "web")
    assert ground.keepers.deadline() == ground.deadlines[-1] == web.held_since + 60
    ground.keepers.abandon()
    ground.keepers.verify(broken=True)
    ground.keepers.release(Outcome.NONE)
    ground.hear("release", "web")
    assert ground.keepers.deadline() == ground.deadlines[-1] == float("inf")


def test_what_was_lost_is_undone_once_nothing_is_frozen(ground: Ground) -> None:
    ground.keepers.quiesce()
    ground.hear("quiesce")
    ground.frozen = True
    ground.far["db"].told()
    ground.far["db"].says("lost", reason="gone")
    ground.keepers.heed(next(k for k in ground.keepers._all if k.name == "db"))
    ground.keepers.tick()
    assert ground.far["db"].told() == []
    ground.frozen = False
    ground.keepers.tick()
    ground.keepers.tick()
    assert ground.far["db"].told() == ["recover"], "once"
    assert ground.lost == ["db: gone"]


def test_what_could_not_be_undone_is_tried_again_at_the_release(ground: Ground) -> None:
    ground.keepers.quiesce()
    ground.hear("quiesce")
    ground.keepers.abandon()
    ground.keepers.verify(broken=True)
    ground.keepers.release(Outcome.NONE)
    ground.hear("release", "web")
    ground.far["db"].told()
    for _ in range(2):
        ground.far["db"].says("done", order="release", ok=False, reason="no", left=True)
        ground.keepers.heed(next(k for k in ground.keepers._all if k.name == "db"))
        assert not ground.keepers.release(Outcome.NONE)
        assert ground.far["db"].told() == ["recover"]
    ground.far["db"].says("done", order="recover", ok=False, reason="no", left=True)
    ground.keepers.heed(next(k for k in ground.keepers._all if k.name == "db"))
    assert ground.keepers.release(Outcome.NONE), "not for ever"
