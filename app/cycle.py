"""The whole run: quiesce, freeze, snapshot, thaw, release, report, for any provider.

While anything is frozen nothing is said: our output may lead to a frozen filesystem.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from app import history, hold, journal, manifest, recovery, report, snapshot, verify
from app.aftermath import Aftermath
from app.errors import HostUnfit, SnapshotFailed, StillframeError, Stuck
from app.flusher import Flusher
from app.freeze import Target, Writeback
from app.host import hazards
from app.host.fork import keep_in_children
from app.host.mounts import Mount, read_mounts, resource_devices, select, select_for_extension
from app.paths import CONFIG_DIRECTORY, Paths
from app.plan import Outcome, Plan

Progress = Callable[[str], None]

PRESYNC_SECONDS = 300.0
"""Writeback before the hold: nothing stands still for it, so it may take long."""


def begin(paths: Paths, progress: Progress) -> int:
    """Folders, lock, and whatever a hold that died left behind. Raises HostUnfit, Busy, Stuck."""
    hold.prepare_folders(paths)
    lock = hold.take_lock(paths)
    keep_in_children(lock)
    left = recovery.recover(paths)
    if left is not None:
        progress(
            f"an earlier hold died; thawed: {', '.join(left['thawed']) or 'nothing'}; "
            f"released: {', '.join(left['released']) or 'nothing'}"
        )
    if left is not None and left["left"]:
        # A new hold would take what it finds for how it was before, and put that back.
        raise Stuck(
            f"{', '.join(left['left'])}: still as an earlier hold left it, and could not be undone",
            "app report says why; once that is mended: app recover. To give it up: app recover --forget",
        )
    return lock


def choose_mounts(plan: Plan) -> list[Mount]:
    """The filesystems that this plan freezes here, in freezing order. Raises HostUnfit."""
    mounts = read_mounts()
    return select(mounts, plan.freeze, resource_devices(mounts))


def inspect(plan: Plan, paths: Paths, extension: str = "") -> tuple[list[Mount], list[hazards.Hazard]]:
    """What a hold of this plan would freeze here, and every hazard. Touches nothing. Raises HostUnfit.

    ``extension``: the folder of the extension's that a pre-script serves; "" for ``app run``.
    """
    mounts = read_mounts()
    folder, theirs = extension, bool(extension)
    needs_freeze = theirs
    if not theirs:
        provider: snapshot.Provider = snapshot.load(plan.snapshot.provider).provider(plan.snapshot.options)
        theirs, needs_freeze = provider.freezes_itself, provider.needs_freeze or provider.freezes_itself
        folder = str(plan.snapshot.options.get("config") or CONFIG_DIRECTORY)
    freezing: list[Mount] = []
    if needs_freeze and plan.freeze.enabled and os.geteuid() == 0:
        chooser = select_for_extension if theirs else select
        freezing = chooser(mounts, plan.freeze, resource_devices(mounts))
    scene = hazards.Scene(
        freezing=freezing,
        mounts=mounts,
        paths=paths,
        timeout=plan.freeze.timeout,
        skip=plan.freeze.skip,
        unwritten=theirs,
        extension=folder,
    )
    return freezing, hazards.find(scene, plan.hazards)


def heed(found: Sequence[hazards.Hazard], progress: Progress) -> None:
    """Say what is only a warning. Raises HostUnfit for what is fatal, before anything is quiesced."""
    for hazard in found:
        if hazard.severity == hazards.WARNING:
            progress(f"warning: {hazard}\n  cure: {hazard.cure}")
    hazards.demand(found)


def note_hazards(held: hold.Hold, found: Sequence[hazards.Hazard]) -> None:
    """Keep them in the journal, and so in the report."""
    for hazard in found:
        held.notes.note("hazard", **hazard.facts())


def targets_for(plan: Plan) -> tuple[list[Target], bool, str]:
    """What to freeze, or only to write back; (targets, sync only, why nothing is frozen)."""
    if not plan.freeze.enabled:
        reason = "freeze.enabled is false"
    elif os.geteuid() != 0:
        reason = "only root can freeze filesystems"
    else:
        return hold.open_targets(choose_mounts(plan)), False, ""
    wanted = replace(plan, freeze=replace(plan.freeze, enabled=True))
    targets = []
    for mount in choose_mounts(wanted) if plan.freeze.mounts or os.geteuid() == 0 else ():
        try:
            targets += hold.open_targets([mount])
        except HostUnfit:
            continue  # not ours to open, so not ours to write back
    return targets, True, reason


def write_back(targets: Sequence[Target]) -> Writeback:
    """Write dirty pages back, before the hold. Raises HostUnfit where that does not come to an end."""
    if not targets:
        return Writeback()
    with Flusher(targets) as flusher:
        written = flusher.presync(PRESYNC_SECONDS, lambda _event, **_facts: None, gently=True)
    if written.hung:
        raise HostUnfit(
            f"{', '.join(written.hung)}: the writeback (syncfs) has not ended after {PRESYNC_SECONDS:g} s",
            "see what its device says (dmesg), or leave it out: freeze.skip",
        )
    return written


def run(plan: Plan, paths: Paths, progress: Progress) -> report.Report:
    """One whole cycle; the report, kept in the history. Raises StillframeError before the hold only."""
    begin(paths, progress)
    provider: snapshot.Provider = snapshot.load(plan.snapshot.provider).provider(plan.snapshot.options)
    if provider.freezes_itself and os.path.lexists(f"{CONFIG_DIRECTORY}/stillframe/manifest.json"):
        verify.demand()  # the extension will run what was compiled there
    _, dangers = inspect(plan, paths)
    heed(dangers, progress)
    targets: list[Target] = []
    sync_only, unfrozen = False, ""
    if provider.needs_freeze and not provider.freezes_itself:
        targets, sync_only, unfrozen = targets_for(plan)
    name = time.strftime("stillframe-%Y%m%dT%H%M%SZ", time.gmtime())
    context = snapshot.Context(name, tuple(t.mount.path for t in targets if not sync_only))
    provider.prepare(context)
    taken: snapshot.Taken | None = None
    try:
        if unfrozen:
            progress(f"no freeze: {unfrozen}")
        if targets and not sync_only:
            progress(f"writing dirty pages back on {', '.join(context.mounts)}")
        written = write_back(targets)
        held = hold.start(
            plan,
            "run",
            paths=paths,
            targets=targets,
            give_up_at=time.monotonic() + plan.framework.timeout_seconds,
            sync_only=sync_only,
            unfrozen_level=provider.unfrozen_level.word,
            rehearsal=not provider.takes_snapshot,
            presync=written.rounds,
        )
        note_hazards(held, dangers)
        if unfrozen:
            held.notes.note("no_freeze", reason=unfrozen)
        try:
            taken = _held(plan, held, provider, context, bool(targets) and not sync_only, progress)
            held.thaw()
            held.release(Outcome.TAKEN if taken is not None and provider.takes_snapshot else Outcome.NONE)
        except BaseException as error:
            # An interrupt by the operator, or a bug of ours: nothing stays held, and the report says why.
            held.abandon("interrupted" if isinstance(error, KeyboardInterrupt) else f"our bug: {error!r}")
            conclude(plan, paths, held)
            raise
    finally:
        details = provider.finish(context, taken)
    if details:
        held.notes.note("snapshot_finished", details=dict(details))
    found = conclude(plan, paths, held)
    if taken is not None and taken.manifest:
        try:
            manifest.put_beside(taken.manifest, manifest.after(found))
        except OSError as error:
            progress(f"warning: {taken.manifest}: {error.strerror}")
    return found


def _held(
    plan: Plan,
    held: hold.Hold,
    provider: snapshot.Provider,
    context: snapshot.Context,
    to_freeze: bool,
    progress: Progress,
) -> snapshot.Taken | None:
    note = held.notes.note
    names = ", ".join(a.name for a in plan.applications if a.has_steps)
    if names:
        progress(f"quiescing {names}")
    if not held.quiesce() and not plan.framework.continue_backup_on_failure:
        note("snapshot_refused", reason='an application could not be held, and failure.backup is "fail"')
        return None
    if held.broken:
        # The hold was undone; a snapshot now would be a plain one, which is what "continue" asks for,
        # unless it was us who were told to stop.
        note("snapshot_refused", reason=held.broken)
        return None
    if to_freeze:
        progress("freezing; no output until the thaw")
        frozen = held.freeze()
        if not frozen.get("frozen"):
            reason = frozen.get("reason") or "the hold was lost"
            note("snapshot_refused", reason=reason, state="busy" if frozen.get("busy") else "refused")
            return None
    seconds = (
        plan.freeze.timeout if to_freeze else min((a.timing.hold for a in plan.applications), default=1800.0)
    )
    context.deadline = time.monotonic() + seconds
    context.asker, context.register = held.channel, held.register
    note("snapshot_begin", provider=plan.snapshot.provider)
    try:
        taken = provider.take(context)
        if not provider.takes_snapshot and time.monotonic() >= context.deadline:
            raise SnapshotFailed("the rehearsal was to last longer than the hold may")
    except Exception as error:  # noqa: BLE001 - a provider's own bug must not cost the report
        reason = error.message if isinstance(error, StillframeError) else f"{type(error).__name__}: {error}"
        broken = f"; {held.broken}" if held.is_broken() else ""
        note("snapshot_end", ok=False, reason=reason + broken)
        return None
    note("snapshot_end", ok=True, reference=taken.reference, details=dict(taken.details))
    return taken


def conclude(plan: Plan, paths: Paths, held: hold.Hold) -> report.Report:
    """The report of a hold that is over: the one already written by whoever survived, or a new one."""
    events = journal.read(paths.journal)
    if held.over and not journal.ended(events):
        recovery.recover(paths)  # nobody survived who could
        events = journal.read(paths.journal)
    written = [e["number"] for e in events if e["event"] == "reported"]
    aftermath = Aftermath(plan, held.notes, paths)
    if written:
        return history.load(paths, int(written[-1]))
    found = aftermath.report()
    aftermath.manifest(found)
    try:
        found = {"number": history.save(paths, found), **found}
    except OSError as error:
        found["not_kept"] = f"{paths.reports}: {error.strerror}"
    return found


def failed_applications(events: Sequence[journal.Event]) -> list[str]:
    """Why applications could not be held, one sentence each."""
    return [
        f"{e['app']}: {e['reason']}" for e in events if e["event"] in ("given_up", "lost") and e.get("reason")
    ]
