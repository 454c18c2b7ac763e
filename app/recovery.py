"""Recovering: thaw and release what a hold of which nobody is left, or a reboot, left behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from app import answers, control, history, journal
from app.aftermath import Aftermath
from app.freeze import thaw_descriptor
from app.host import trust
from app.host.grace import restore as restore_grace
from app.journal import Journal
from app.paths import Paths
from app.plan import Plan

REASON = "every process of the hold died"


def recover(paths: Paths) -> dict[str, Any] | None:
    """Undo what is left, once; None if nothing was. The caller has the lock (hold.take_lock).

    Keys of the answer: ``thawed`` (mount points), ``released`` and ``left`` (what could not be undone).
    Raises HostUnfit where somebody else could have written what we wrote down.
    """
    events = journal.read(paths.journal)
    over = journal.ended(events)
    remembered = _read(paths.outstanding)
    if over and remembered is None and not journal.frozen_mounts(events):
        _report_late(paths, events)
        return None
    notes = Journal(paths.journal)
    if over and remembered is not None:
        # A reboot, or an earlier recover that failed: the journal does not say what is quiesced.
        for application in remembered.applications:
            if application.recover:
                notes.note("quiescing", app=application.name, attempt=0)
    thawed, stuck = thaw_journal(paths, notes)
    if not over and [e["on"] for e in events if e["event"] == "expedited"][-1:] == [True]:
        restore_grace()
    before = journal.quiesced_applications(journal.read(paths.journal))
    plan = remembered or last_plan(paths)
    if plan is None or not (over or before or _is_of(plan, events)):
        # Nothing was written down yet, and nothing had been done.
        notes.note("broken", reason=REASON)
        notes.note("end")
        control.remove(paths)
        return {"thawed": thawed, "released": [], "left": stuck}
    Aftermath(plan, notes, paths).conclude(REASON)
    after = journal.quiesced_applications(journal.read(paths.journal))
    return {"thawed": thawed, "released": [n for n in before if n not in after], "left": after + stuck}


def forget(paths: Paths) -> list[str]:
    """Give up what cannot be undone, as the operator says; the applications. The caller has the lock."""
    notes = Journal(paths.journal)
    names = journal.quiesced_applications(journal.read(paths.journal))
    for name in names:
        notes.note("forgotten", app=name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(paths.outstanding)
    answers.forget(paths)
    return names


def _is_of(plan: Plan, events: Sequence[journal.Event]) -> bool:
    """Whether the journal is of a hold of this plan, not of one that died before it had put down its own."""
    begin = journal.beginning(events)
    return begin is not None and begin.get("plan") == plan.digest()


def _report_late(paths: Paths, events: Sequence[journal.Event]) -> None:
    """Write the report of a hold that ended well, but whose client was killed before it had reported.

    Without it the newest report would be that of another hold.
    """
    begin = journal.beginning(events)
    known = history.numbers(paths)
    if begin is None or (known and history.load(paths, known[-1]).get("hold") == begin.get("hold")):
        return
    if (plan := last_plan(paths)) is not None:
        Aftermath(plan, Journal(paths.journal), paths).write()


def last_plan(paths: Paths) -> Plan | None:
    """The plan of the last hold since the machine started. Raises HostUnfit."""
    return _read(paths.plan)


def _read(path: str) -> Plan | None:
    if not os.path.lexists(path):
        return None
    return Plan.from_json(trust.read_trusted(path, mode=0o600).decode(), path)


def thaw_journal(paths: Paths, notes: Journal) -> tuple[list[str], list[str]]:
    """Thaw the mounts that the journal says we froze; (those that were frozen, those still stuck)."""
    thawed, stuck = [], []
    for path in journal.frozen_mounts(journal.read(paths.journal)):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            notes.note("not_frozen", mount=path, by="recover", reason="no longer mounted")
            continue
        except OSError as error:
            # One whose disk is gone must not keep the others frozen.
            notes.note("thaw_failed", mount=path, reason=error.strerror)
            stuck.append(path)
            continue
        try:
            state = thaw_descriptor(descriptor)
        finally:
            os.close(descriptor)
        if state not in ("thawed", "not frozen"):
            notes.note("thaw_failed", mount=path, reason=state)
            stuck.append(path)
            continue
        notes.note("thawed", mount=path, by="recover")
        if state == "thawed":
            thawed.append(path)
    return thawed, stuck
