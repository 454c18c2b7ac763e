"""A plan has one JSON form, and reads back as itself or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import HostUnfit
from app.plan import Level, Plan, Prove, Step
from tests.unit.plans import application, plan

FULL = plan(
    application(
        "a",
        recover=(
            Step(
                "command", {"argv": ["x", "é\n"]}, expect="y", save=("a", "b:hex"), unchanged="a", proof=True
            ),
        ),
        prove=Prove("", {"major": ("V", "x")}, (), (), {"f": "t"}, ("s",), "INT", 1.5, 2.0, {}, (), ()),
    ),
    application("b", after=("a",), required=False, level=Level.CRASH),
)


def test_round_trip() -> None:
    text = FULL.to_json()
    assert Plan.from_json(text) == FULL
    assert Plan.from_json(text).to_json() == text
    assert text.endswith("}\n")
    assert FULL.digest() == Plan.from_json(text).digest()


def _changed(change: Any) -> str:
    raw = json.loads(FULL.to_json())
    change(raw)
    return json.dumps(raw)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        _changed(lambda raw: raw.update(version=2)),
        _changed(lambda raw: raw.update(more=1)),
        _changed(lambda raw: raw.pop("freeze")),
        _changed(lambda raw: raw["applications"][0].update(required="yes")),
        _changed(lambda raw: raw["applications"][0].update(level="best")),
        _changed(lambda raw: raw["applications"][0]["timing"].update(retries=1.5)),
        _changed(lambda raw: raw["framework"].update(poll_seconds=True)),
        _changed(lambda raw: raw.update(applications={})),
        "[" * 100000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(HostUnfit, match="not a plan that this release can run"):
        Plan.from_json(text, "plan.json")


def test_requested_level() -> None:
    assert plan(application()).requested == Level.APPLICATION
    assert plan(application(), application("b", level=Level.CRASH)).requested == Level.CRASH
    assert plan().requested == Level.FILESYSTEM
    assert plan(freeze=False).requested == Level.CRASH
    assert (
        plan(application(), application("fs", variants=(), level=Level.FILESYSTEM)).requested
        == Level.APPLICATION
    )
