"""The time that a pre-script keeps back for undoing what it has begun."""

from __future__ import annotations

from app.extension import rollback_seconds
from tests.unit.plans import application, plan


def test_releases_that_wait_for_each_other_add_up() -> None:
    chain = plan(application("a"), application("b", after=("a",)), application("c", after=("b",)))
    assert rollback_seconds(chain) == 90
    assert rollback_seconds(plan(application("a"), application("b"), application("c"))) == 30


def test_what_has_no_steps_takes_no_time() -> None:
    assert rollback_seconds(plan(application("plain", variants=()))) == 0
    assert rollback_seconds(plan()) == 0
