"""What the framework's scripts ask for: ``pre`` holds and leaves, ``post`` makes sure of the release."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence

from app import control, cycle, hold, journal, recovery, verify
from app.aftermath import Aftermath, post_status
from app.errors import Busy, Exit, HostUnfit, LevelNotReached
from app.flusher import Flusher, much_is_dirty
from app.freeze import Target
from app.host.life import Life
from app.host.mounts import Mount
from app.journal import Journal
from app.paths import Paths
from app.plan import Plan
from app.report import Report

MARGIN = 5.0
"""Seconds before the extension's timeout by which a failed pre-script must have released all."""

SCRIPT_VARIABLE = "STILLFRAME_SCRIPT"
"""Names the process of the pre-script to the ``app pre`` that it starts."""

SCRIPT_LOST = "the pre-script was killed, so the backup went on without it"

WRITEBACK_SECONDS = 5.0
"""Of the ten that a plan gives the pre-script to begin: nothing stands still yet."""

LARGEST_LOG = 1 << 20
"""Bytes; a log that has grown past it is put aside as ``.1``."""


def load_plan(directory: str) -> Plan:
    """The compiled plan, after all permission checks. Raises HostUnfit naming the framework's error."""
    verify.demand(directory)
    return Plan.from_json(verify.load_plan_text(directory), f"{directory}/stillframe/plan.json")


def pre(directory: str, paths: Paths, started: float, progress: Callable[[str], None]) -> None:
    """Hold every application and leave the hold to the post-script.

    ``started``: CLOCK_MONOTONIC seconds at which the pre-script began. Raises StillframeError with
    nothing held. Frees nothing that it did not quiesce.
    """
    script = _script()
    try:
        cycle.begin(paths, progress)
    except Busy:
        load_plan(directory)
        if _joinable(paths):
            Journal(paths.journal).note("joined")
            progress("the hold that 'app run' keeps for Azure Backup serves this backup too")
            return
        raise
    plan = load_plan(directory)
    _rotate(paths)
    freezing, dangers = cycle.inspect(plan, paths, directory)
    cycle.heed(dangers, progress)
    targets: list[Target] = []
    if not plan.freeze.enabled:
        targets, _, _ = cycle.targets_for(plan)
    elif much_is_dirty():
        _write_back(freezing, progress)
    held = hold.start(
        plan,
        "pre",
        paths=paths,
        targets=targets,
        give_up_at=started + plan.framework.timeout_seconds - rollback_seconds(plan) - MARGIN,
        sync_only=bool(targets),
    )
    cycle.note_hazards(held, dangers)
    if held.quiesce():
        if script is not None and script.ended():
            held.abandon(SCRIPT_LOST)
        elif held.detach():
            progress("held")
            return
    held.release()
    cycle.conclude(plan, paths, held)  # the one report, if whoever survived has written none
    events = journal.read(paths.journal)
    reasons = cycle.failed_applications(events) or [held.broken or "the hold was lost"]
    raise LevelNotReached(
        f"Pre-ScriptExecutionFailed: {'; '.join(dict.fromkeys(reasons))}",
        "app report shows every step of this attempt",
    )


def _write_back(mounts: Sequence[Mount], progress: Callable[[str], None]) -> None:
    """Write before the hold what the extension would write while it freezes, one filesystem after the other.

    Never fails: one that cannot be opened, or takes longer, is left to the extension.
    """
    with contextlib.ExitStack() as stack:
        try:
            targets = hold.open_targets(mounts)
        except HostUnfit:
            return
        for target in targets:
            stack.callback(os.close, target.descriptor)
        flusher = stack.enter_context(Flusher(targets))
        written = flusher.presync(WRITEBACK_SECONDS, lambda _event, **_facts: None, gently=True)
    if written.hung:
        progress(f"still being written back after {WRITEBACK_SECONDS:g} s: {', '.join(written.hung)}")


def _script() -> Life | None:
    """The pre-script that started us, if it said who it is. Raises LevelNotReached if it has ended since."""
    number = os.environ.get(SCRIPT_VARIABLE, "")
    try:
        return Life(int(number)) if number.isdigit() else None
    except OSError:
        raise LevelNotReached(f"Pre-ScriptExecutionFailed: {SCRIPT_LOST}") from None


def rollback_seconds(plan: Plan) -> float:
    """How long undoing a hold may take: releases that wait for each other, one after the other."""
    ends: dict[str, float] = {}
    for application in plan.applications:  # in the order of ``after``
        before = max((ends.get(name, 0.0) for name in application.after), default=0.0)
        ends[application.name] = before + (application.timing.release if application.has_steps else 0.0)
    return max(ends.values(), default=0.0)


def post(directory: str, paths: Paths, progress: Callable[[str], None]) -> int:
    """Release what is left, and say how the last hold ended: an exit status.

    The script has asked the holder already; whoever calls us without it has not.
    """
    answered = control.ask(paths, "release")
    if answered is not None:
        progress(answered[1])
        return answered[0]
    events = journal.read(paths.journal)
    begin = journal.beginning(events)
    if begin is None:
        progress("nothing is held")
        return int(Exit.DONE)
    hold.prepare_folders(paths)
    # A hold of a pre-script's with no holder to answer is being undone by its watchdog: see the end of it.
    joined = any(e["event"] == "joined" for e in events)
    dying = begin.get("kind") == "pre" and not journal.ended(events)
    lock = _wait_for_lock(paths, _patience(paths) if dying or joined else 0.0)
    if lock is None and dying:
        progress("the hold was lost, and is still being undone")
        return int(Exit.STUCK)
    if lock is None and joined:
        progress("still held by 'app run', so nothing is proven yet; its own report tells the end")
        return int(Exit.DIFFERS)
    if lock is None:
        progress("a hold that is not this backup's is running")
        return int(Exit.DONE)
    events = journal.read(paths.journal)
    if not journal.ended(events) or journal.quiesced_applications(events):
        # Before anything that may refuse: what a dead holder left, or could not undo, comes first.
        recovery.recover(paths)
        events = journal.read(paths.journal)
    os.close(lock)
    if begin.get("kind") != "pre" and not joined:
        progress("nothing of a backup's is held")
        return int(Exit.DONE)
    if any(e["event"] == "collected" for e in events):
        progress("released before, by an earlier post-script: nothing is held and nothing vouched for")
        return int(Exit.DIFFERS)
    plan = recovery.last_plan(paths) or load_plan(directory)
    found = Aftermath(plan, Journal(paths.journal), paths).report()
    detached = joined or any(e["event"] == "detached" for e in events)
    status = post_status(found) if detached or found["stuck"] else int(Exit.DONE)
    if joined and not status and not _served(found, events):
        progress("the hold of 'app run' that this backup had joined was over before its snapshot")
        status = int(Exit.DIFFERS)
    if detached:
        Journal(paths.journal).note("collected")
    progress(f"{found['achieved']}: {'; '.join(found['because']) or 'held without a break'}")
    return status


def _patience(paths: Paths) -> float:
    """Seconds that a hold in progress may take to be released, proven or undone."""
    plan = recovery.last_plan(paths)
    return max(hold.WATCHDOG_SECONDS, rollback_seconds(plan) if plan else 0.0)


def _served(found: Report, events: Sequence[journal.Event]) -> bool:
    """Whether an ``app run`` held for the backup that had joined it: the extension came, and went, since."""
    joined = max(float(e["t"]) for e in events if e["event"] == "joined")
    ended = max((float(e["t"]) for e in events if e["event"] == "snapshot_end"), default=0.0)
    return found["snapshot"]["state"] == "taken" and joined < ended


def _wait_for_lock(paths: Paths, seconds: float) -> int | None:
    """The lock as soon as it is free; None after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        try:
            return hold.take_lock(paths)
        except Busy:
            if time.monotonic() >= end:
                return None
        time.sleep(0.01)


def _joinable(paths: Paths) -> bool:
    """Whether an ``app run`` holds everything just for the extension to come."""
    events = journal.read(paths.journal)
    begin = journal.beginning(events) or {}
    words = {str(e["event"]) for e in events}
    waiting = "snapshot_begin" in words and not words & {"snapshot_end", "broken", "end"}
    return begin.get("kind") == "run" and begin.get("provider") == "azure-backup" and waiting


def _rotate(paths: Paths) -> None:
    for name in ("pre.log", "post.log"):
        try:
            if os.stat(f"{paths.log}/{name}").st_size > LARGEST_LOG:
                os.rename(f"{paths.log}/{name}", f"{paths.log}/{name}.1")
        except OSError:
            pass
