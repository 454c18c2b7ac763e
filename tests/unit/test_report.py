"""Law 2: the report claims nothing that the journal does not prove."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from app.errors import Exit
from app.host.hazards import WARNING, Hazard
from app.narrate import narrate
from app.plan import Level, Plan
from app.report import build
from tests.unit.plans import application, events, plan

PERFECT = (
    "begin", "connected:db", "quiescing:db", "quiesced:db", "freezing:/v", "frozen:/v", "snapshot_begin",
    "snapshot_end", "thawed:/v", "verified:db", "releasing:db", "released:db", "end",
)  # fmt: skip

FACTS: dict[str, dict[str, Any]] = {
    "begin": {
        "kind": "run",
        "provider": "command",
        "unfrozen_level": "crash",
        "wall": "2026-01-01T00:00:00+00:00",
    },
    "snapshot_end": {"ok": True, "reference": "snap"},
    "released": {"held": True},
}

PRE = ("begin", "quiescing:db", "quiesced:db", "detached", "verified:db", "released:db", "end")


def achieved(names: tuple[str, ...], subject: Plan | None = None, **facts: dict[str, Any]) -> dict[str, Any]:
    return build(subject or plan(application()), events(*names, **{**FACTS, **facts}))


def without(names: tuple[str, ...], *dropped: str) -> tuple[str, ...]:
    return tuple(n for n in names if n not in dropped)


def before(names: tuple[str, ...], mark: str, *added: str) -> tuple[str, ...]:
    at = names.index(mark)
    return (*names[:at], *added, *names[at:])


def test_a_perfect_run() -> None:
    report = achieved(PERFECT)
    assert (report["achieved"], report["exit"], report["because"]) == ("application", Exit.DONE, [])
    assert report["filesystems"][0]["held_seconds"] == 4.0
    assert report["applications"][0]["held_seconds"] == 9.0
    assert "consistency level: application" in narrate(report)


@pytest.mark.parametrize("missing", ["quiesced:db", "verified:db", "released:db", "end"])
def test_a_missing_event_lowers_the_level(missing: str) -> None:
    report = achieved(without(PERFECT, missing))
    assert report["achieved"] == "filesystem"
    assert report["exit"] != Exit.DONE
    assert report["because"]


@pytest.mark.parametrize("length", range(1, len(PERFECT)))
def test_a_journal_cut_anywhere_never_claims_application(length: int) -> None:
    report = achieved(PERFECT[:length])
    assert report["achieved"] != "application"
    assert report["exit"] != Exit.DONE


@pytest.mark.parametrize("bad", ["lost:db", "not_verified:db", "release_failed:db", "undone:db", "broken"])
@pytest.mark.parametrize(
    "when", ["freezing:/v", "snapshot_begin", "snapshot_end", "thawed:/v", "released:db"]
)
def test_a_break_anywhere_in_the_hold_lowers_the_level(bad: str, when: str) -> None:
    report = achieved(before(PERFECT, when, bad), broken={"reason": "x"}, lost={"reason": "y"})
    assert report["achieved"] == "filesystem"
    assert report["exit"] == Exit.DIFFERS


def test_quiesced_after_the_snapshot_began_does_not_count() -> None:
    names = without(PERFECT, "quiesced:db")
    assert achieved(before(names, "snapshot_end", "quiesced:db"))["achieved"] == "filesystem"


def test_verified_before_the_snapshot_ended_does_not_count() -> None:
    names = without(PERFECT, "verified:db")
    assert achieved(before(names, "snapshot_end", "verified:db"))["achieved"] == "filesystem"


@pytest.mark.parametrize("early", ["snapshot_begin", "snapshot_end"])
def test_thawed_before_the_snapshot_ended(early: str) -> None:
    names = before(without(PERFECT, "thawed:/v"), early, "thawed:/v")
    assert achieved(names)["achieved"] == "crash"


def test_one_of_two_filesystems_not_frozen() -> None:
    names = before(PERFECT, "frozen:/v", "freezing:/w")
    report = achieved(before(names, "snapshot_begin", "not_frozen:/w"))
    assert report["achieved"] == "crash"


def test_not_thawed_is_stuck_and_outranks_everything() -> None:
    report = achieved(without(PERFECT, "thawed:/v"))
    assert report["exit"] == Exit.STUCK
    assert report["stuck"] == ["/v"]
    assert "app thaw" in narrate(report)


def test_not_released_is_stuck() -> None:
    report = achieved(without(PERFECT, "released:db"))
    assert report["exit"] == Exit.STUCK
    assert report["stuck"] == ["db"]


@pytest.mark.parametrize("ok", [None, False])
def test_no_snapshot_is_no_level(ok: bool | None) -> None:
    names = without(PERFECT, "snapshot_begin", "snapshot_end") if ok is None else PERFECT
    report = achieved(names, snapshot_end={"ok": False, "reason": "no space"})
    assert (report["achieved"], report["exit"]) == ("none", Exit.SNAPSHOT)


def test_somebody_elses_freeze_is_busy() -> None:
    names = (*without(PERFECT, "snapshot_begin", "snapshot_end", "end"), "snapshot_refused", "end")
    report = achieved(names, snapshot_refused={"state": "busy", "reason": "EBUSY"})
    assert (report["achieved"], report["exit"]) == ("none", Exit.BUSY)


def test_an_optional_application_lowers_the_level_all_the_same() -> None:
    subject = plan(application("a"), application("db", required=False))
    names = without(PERFECT, "quiesced:db")
    assert achieved(names, subject)["achieved"] == "filesystem"


def test_a_policy_that_gives_crash_only_never_reports_more() -> None:
    subject = plan(application(level=Level.CRASH))
    report = achieved(PERFECT, subject)
    assert (report["requested"], report["achieved"], report["exit"]) == ("crash", "crash", Exit.DONE)


def test_no_application_gives_filesystem_at_most() -> None:
    subject = plan(application("filesystem", variants=(), level=Level.FILESYSTEM))
    names = tuple(n for n in PERFECT if not n.endswith(":db"))
    report = achieved(names, subject)
    assert (report["requested"], report["achieved"], report["exit"]) == (
        "filesystem",
        "filesystem",
        Exit.DONE,
    )


@pytest.mark.parametrize(
    ("synced", "wanted", "level"),
    [(True, False, "application"), (True, True, "crash"), (False, False, "crash"), (False, True, "crash")],
)
def test_without_a_freeze_only_a_writeback_that_the_policy_relies_on_counts(
    synced: bool, wanted: bool, level: str
) -> None:
    names = tuple(n for n in PERFECT if not n.endswith(":/v"))
    names = before(names, "snapshot_begin", "synced") if synced else names
    names = before(names, "quiescing:db", "no_freeze")
    report = achieved(names, plan(application(), freeze=wanted), no_freeze={"reason": "only root can"})
    assert report["achieved"] == level
    assert any("only root can" in reason for reason in report["because"])


def test_a_provider_that_needs_no_freeze() -> None:
    names = tuple(n for n in PERFECT if not n.endswith(":/v"))
    begin = {**FACTS["begin"], "unfrozen_level": "filesystem"}
    assert achieved(names, begin=begin)["achieved"] == "application"


PRE_FACTS: dict[str, dict[str, Any]] = {"begin": {"kind": "pre"}, "released": {"held": True}}


def test_the_framework_s_own_run() -> None:
    report = build(plan(application()), events(*PRE, **PRE_FACTS))
    assert (report["achieved"], report["framework_error"]) == ("application", None)


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (("begin", "quiescing:db", "attempt_failed:db", "end"), "Pre-ScriptExecutionFailed"),
        (without(PRE, "verified:db"), "Post-ScriptExecutionFailed"),
        (before(PRE, "verified:db", "broken"), "Post-ScriptExecutionFailed"),
    ],
)
def test_the_framework_s_error_is_named(names: tuple[str, ...], error: str) -> None:
    report = build(plan(application()), events(*names, **PRE_FACTS, broken={"reason": "deadline"}))
    assert report["framework_error"]["name"] == error
    assert report["achieved"] == "filesystem"
    assert error in narrate(report)


def test_any_order_of_a_torn_journal_builds() -> None:
    for names in itertools.permutations(PERFECT[2:8], 4):
        build(plan(application()), events(*names, **FACTS))
    assert build(plan(), [])["achieved"] == "none"


def test_hazards_are_kept_and_shown() -> None:
    facts = Hazard("nfs-export", "/srv is exported", "exportfs -ua", path="/srv", severity=WARNING).facts()
    report = achieved(("begin", "hazard", *PERFECT[1:]), hazard=facts)
    assert (report["achieved"], report["exit"]) == ("application", Exit.DONE)
    assert report["hazards"] == [facts]
    assert [f["mount"] for f in report["filesystems"]] == ["/v"]
    assert report["timeline"][0]["text"] == "hazard: nfs-export: /srv is exported"
    assert "  hazard     nfs-export: /srv is exported" in narrate(report)


@pytest.mark.parametrize(("mount", "named"), [("/v", True), ("/w", False)])
def test_a_freeze_that_hung_is_laid_to_the_hazard_of_its_mount(mount: str, named: bool) -> None:
    facts = Hazard(
        "fanotify", "process 7 (scanner) is asked", "kill 7", mount=mount, severity=WARNING
    ).facts()
    names = ("begin", "hazard", "freezing:/v", "freeze_hung:/v", "snapshot_refused", "not_frozen:/v", "end")
    report = achieved(names, hazard=facts, snapshot_refused={"reason": "/v: FIFREEZE did not return"})
    assert report["because"][0] == "no snapshot: /v: FIFREEZE did not return"
    assert any("process 7 (scanner)" in reason for reason in report["because"]) is named


def test_a_thaw_that_was_told_of_and_not_noted() -> None:
    """The holder died between the two."""
    report = achieved(tuple("not_frozen:/v" if name == "thawed:/v" else name for name in PERFECT))
    assert (report["achieved"], report["stuck"]) == ("crash", [])
    assert report["because"] == ["/v: it was thawed, and nobody knows since when"]
    noted = achieved(before(PERFECT, "end", "not_frozen:/v"))
    assert (noted["achieved"], noted["because"]) == ("application", [])


def test_thawed_by_somebody_else_meanwhile() -> None:
    """Nobody knows since when, so the snapshot is not covered, although our own thaw came after it."""
    report = achieved(PERFECT, thawed={"found": "not frozen"})
    assert report["achieved"] == "crash"
    assert report["because"] == ["/v: somebody else had thawed it"]
    assert (report["filesystems"][0]["frozen"], report["filesystems"][0]["covers_snapshot"]) == (True, False)
