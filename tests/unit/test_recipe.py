"""Expectations, saved answers and the choice by version, on a connection that is played."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.document import dump
from app.errors import HostUnfit
from app.journal import Journal, read
from app.mechanisms import StepFailed, Waiter
from app.plan import Step, Variant
from app.recipe import Recipe, choose
from tests.unit.plans import application


class Played:
    """Answers each step from a list."""

    identity = "7"
    version: int | None = 150000

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.done: list[str] = []

    def perform(self, step: Step, deadline: float) -> str:
        self.done.append(step.do["send"])
        return self.answers.pop(0)

    def prove(self, deadline: float) -> None: ...
    def lost(self) -> int | None: ...
    def close(self, deadline: float) -> None: ...
    def kill(self) -> None: ...


def recipe(*answers: str) -> tuple[Recipe, Played]:
    made = Recipe({}, Waiter(), lambda pid: None)
    played = Played(answers)
    made.connections["session"] = played
    return made, played


def step(send: str = "x", **more: object) -> Step:
    return Step("session", {"send": send}, **more)  # type: ignore[arg-type]


def test_groups_are_saved_and_hex_is_decoded() -> None:
    made, _ = recipe("0/2|4c4142454c0a|")
    expect = r"^(\S+)\|([0-9a-f]*)\|([0-9a-f]*)$"
    assert made.perform([step(expect=expect, save=("lsn", "label:hex", "map:hex"), proof=True)], 0)
    assert made.saved == {"lsn": "0/2", "label": "LABEL\n", "map": ""}


def test_bytes_that_are_no_utf8_survive_the_journal_and_the_report(tmp_path: Path) -> None:
    made, _ = recipe("2f64ff0a1b")
    made.perform([step(expect=r"^(.*)$", save=("map:hex",))], 0)
    notes = Journal(str(tmp_path / "journal"))
    notes.note("quiesced", app="db", saved=made.saved)
    (event,) = read(str(tmp_path / "journal"))
    (tmp_path / "report").write_text(dump({"saved": event["saved"]}), encoding="utf-8")
    saved = json.loads((tmp_path / "report").read_text(encoding="utf-8"))["saved"]
    assert saved["map"].encode(errors="surrogateescape") == b"/d\xff\n\x1b"


def test_one_name_saves_the_whole_answer() -> None:
    made, _ = recipe("paused 12")
    assert not made.perform([step(expect="^paused", save=("run",))], 0)
    assert made.saved == {"run": "paused 12"}


def test_an_answer_that_does_not_match_stops_the_steps() -> None:
    made, played = recipe("running", "never")
    with pytest.raises(StepFailed, match="does not match"):
        made.perform([step("a", expect="^paused"), step("b")], 0)
    assert played.done == ["a"]


def test_unchanged() -> None:
    made, _ = recipe("run 1", "run 1", "run 2")
    made.perform([step(save=("run",)), step(unchanged="run")], 0)
    with pytest.raises(StepFailed, match=r"run 1.* before"):
        made.perform([step(unchanged="run")], 0)


def test_unchanged_compares_what_was_saved() -> None:
    made, _ = recipe("paused 7 for 1 s", "paused 7 for 2 s", "paused 8 for 3 s")
    expect = r"^paused (\d+)"
    made.perform([step(expect=expect, save=("run",)), step(expect=expect, unchanged="run")], 0)
    with pytest.raises(StepFailed, match="'8', but '7' before"):
        made.perform([step(expect=expect, unchanged="run")], 0)


def test_what_is_no_hexadecimal() -> None:
    made, _ = recipe("abc")
    with pytest.raises(StepFailed, match="not hexadecimal"):
        made.perform([step(save=("label:hex",))], 0)


def variant(name: str, *versions: tuple[str, int]) -> Variant:
    return Variant(name, versions, (step(),), (), ())


@pytest.mark.parametrize(
    ("version", "name"),
    [(150000, "new"), (180001, "new"), (149999, "old"), (110000, "old"), (100000, None), (None, None)],
)
def test_the_first_variant_that_fits(version: int | None, name: str | None) -> None:
    subject = application(
        variants=(variant("new", (">=", 150000)), variant("old", (">=", 110000), ("<", 150000)))
    )
    if name is None:
        with pytest.raises(HostUnfit, match="no recipe for server version"):
            choose(subject, version)
    else:
        assert choose(subject, version).name == name


def test_a_variant_without_versions_needs_none() -> None:
    assert choose(application(variants=(variant("default"),)), None).name == "default"


def test_a_step_is_left_out_unless_the_answers_match() -> None:
    made, played = recipe("level 5", "x", "y")
    first = step("show", expect=r"^level (\d+)", save=("old",))
    made.perform(
        [first, step("a", when={"old": "^0"}), step("b", when={"old": "5"}), step("c", when={"new": ""})], 0
    )
    assert played.done == ["show", "b"]


def test_answers_are_put_into_later_steps_and_never_read_as_placeholders() -> None:
    made, played = recipe("{x} a.b", "now {x} aXb")
    with pytest.raises(StepFailed, match="does not match"):
        made.perform(
            [step("show", save=("old",)), step("set {{}} {old}", expect="^now {old:regex}$", staged=True)], 0
        )
    assert played.done == ["show", "set {} {x} a.b"]


def test_an_answer_that_cannot_be_quoted_stops_the_steps() -> None:
    made, played = recipe("a b")
    with pytest.raises(StepFailed, match="not one plain word"):
        made.perform([step("show", save=("old",)), step("set {old:word}", staged=True)], 0)
    assert played.done == ["show"]


def test_a_step_is_done_again_until_it_is_right() -> None:
    made, played = recipe("saving", "saving", "saved")
    made.perform([step("look", expect="^saved", within=30.0, pause=0.001)], time.monotonic() + 30)
    assert played.done == ["look"] * 3


def test_a_step_is_done_again_no_longer_than_it_says() -> None:
    made, played = recipe(*["saving"] * 1000)
    with pytest.raises(StepFailed, match="does not match"):
        made.perform([step("look", expect="^saved", within=0.05, pause=0.01)], time.monotonic() + 30)
    assert 1 < len(played.done) < 10
