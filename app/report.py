"""The report: what a hold achieved, as a pure function of its plan and its journal.

What the journal does not prove was not achieved: an event that is missing, because whoever would
have written it was killed, lowers the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import FRAMEWORK_ERRORS, Exit
from app.journal import Event
from app.plan import Application, Level, Plan

Report = dict[str, Any]
"""JSON values only; ``build`` says which."""


@dataclass(frozen=True, slots=True)
class _Times:
    """Events of one application, by name: the last of each, CLOCK_MONOTONIC seconds."""

    at: dict[str, float]

    def __getitem__(self, name: str) -> float | None:
        return self.at.get(name)


def build(plan: Plan, events: Sequence[Event]) -> Report:
    """The report of the hold that ``events`` tell of. Pure; never raises on a torn journal."""
    begin: Event = next((e for e in events if e["event"] == "begin"), {"t": 0.0})
    zero = float(begin["t"])
    snapshot = _snapshot(events)
    window = (snapshot.get("began"), snapshot.get("ended"))
    broken = [str(e["reason"]) for e in events if e["event"] == "broken"]
    filesystems = _filesystems(events, window)
    applications = [_application(a, events, window, broken) for a in plan.applications]
    level, because = _level(plan, events, applications, filesystems, snapshot, broken)
    stuck = [f["mount"] for f in filesystems if f["stuck"]] + [a["name"] for a in applications if a["stuck"]]
    report: Report = {
        "hold": begin.get("hold", ""),
        "kind": begin.get("kind", ""),
        "version": begin.get("version", ""),
        "plan": begin.get("plan", ""),
        "started": begin.get("wall", ""),
        "requested": plan.requested.word,
        "achieved": level.word,
        "because": because,
        "rehearsal": bool(begin.get("rehearsal", False)) or any(e["event"] == "rehearsal" for e in events),
        "snapshot": {k: v for k, v in snapshot.items() if k not in ("began", "ended")},
        "applications": applications,
        "filesystems": filesystems,
        "stuck": stuck,
        "hazards": [
            {key: value for key, value in e.items() if key not in ("t", "event")}
            for e in events
            if e["event"] == "hazard"
        ],
        "manifest_failed": [w for e in events if e["event"] == "manifest" for w in e.get("wrong", ())],
        "framework_error": _framework_error(begin, events, broken, applications),
        "seconds": round(float(events[-1]["t"]) - zero, 6) if events else 0.0,
        "timeline": _timeline(events, zero),
    }
    report["exit"] = int(_exit(report, plan, level))
    return report


def _exit(report: Report, plan: Plan, level: Level) -> Exit:
    if report["stuck"]:
        return Exit.STUCK
    if report["snapshot"].get("state") == "busy":
        return Exit.BUSY
    if level == Level.NONE:
        return Exit.SNAPSHOT
    return Exit.DONE if level >= plan.requested else Exit.DIFFERS


def _snapshot(events: Sequence[Event]) -> dict[str, Any]:
    found: dict[str, Any] = {"state": "not taken"}
    rehearsal = False
    for event in events:
        if event["event"] == "begin":
            found["provider"] = event.get("provider", "")
            if event.get("kind") == "pre":
                # Whatever provider the policy names: compiled scripts serve the extension.
                found.update(provider="azure-backup", state="left to the extension")
            rehearsal = bool(event.get("rehearsal"))
        elif event["event"] == "rehearsal":
            found["state"] = "rehearsed"
        elif event["event"] == "snapshot_begin":
            found["began"] = event["t"]
        elif event["event"] == "snapshot_end":
            found["ended"] = event["t"]
            good = "rehearsed" if rehearsal else "taken"
            found["state"] = good if event["ok"] else "failed"
            found["seconds"] = round(event["t"] - found.get("began", event["t"]), 6)
            found.update({k: event[k] for k in ("reference", "details", "reason") if event.get(k)})
        elif event["event"] == "snapshot_refused":
            found["state"], found["reason"] = event.get("state", "refused"), event["reason"]
        elif event["event"] == "snapshot_finished":
            found["finished"] = event.get("details", {})
    return found


def _filesystems(events: Sequence[Event], window: tuple[float | None, float | None]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        name, mount = event["event"], event.get("mount")
        if mount is None:
            continue
        entry = found.setdefault(mount, {"mount": mount, "device": "", "frozen_at": None, "thawed_at": None})
        if name == "freezing":
            entry.update(device=event.get("device", ""), asked_at=event["t"], frozen_at=None, thawed_at=None)
        elif name == "frozen":
            entry["frozen_at"] = event["t"]
        elif name in ("thawed", "not_frozen"):
            if event.get("found") == "not frozen":
                # Nobody knows since when: it may have been written to all the time.
                entry.update(reason="somebody else had thawed it", lost=True)
            elif name == "not_frozen" and entry["frozen_at"] is not None and entry["thawed_at"] is None:
                entry.update(reason="it was thawed, and nobody knows since when", lost=True)
            entry["thawed_at"] = event["t"] if entry["thawed_at"] is None else entry["thawed_at"]
            if event.get("reason"):
                entry["reason"] = event["reason"]
            if event.get("by"):
                entry["thawed_by"] = event["by"]
        elif name == "freeze_hung":
            entry["reason"] = "FIFREEZE did not return in the time allowed"
        elif name in ("presync_hung", "presync_failed"):
            entry["reason"] = _unwritten(event)
    result = []
    began, ended = window
    for entry in found.values():
        frozen, thawed, asked = entry.pop("frozen_at"), entry.pop("thawed_at"), entry.pop("asked_at", None)
        entry["frozen"] = frozen is not None
        entry["held_seconds"] = round(thawed - asked, 6) if thawed is not None and asked is not None else None
        entry["stuck"] = asked is not None and thawed is None
        entry["covers_snapshot"] = (
            not entry.pop("lost", False)
            and frozen is not None
            and thawed is not None
            and began is not None
            and ended is not None
            and frozen <= began
            and thawed >= ended
        )
        result.append(entry)
    return result


def _unwritten(event: Event) -> str:
    """Why dirty pages were not written back."""
    if event["event"] == "presync_hung":
        return f"the writeback (syncfs) did not end within {event['seconds']:g} s"
    return f"the writeback (syncfs) failed: {event['reason']}"


def _application(
    application: Application,
    events: Sequence[Event],
    window: tuple[float | None, float | None],
    broken: Sequence[str],
) -> dict[str, Any]:
    mine = [e for e in events if e.get("app") == application.name]
    times = _Times({e["event"]: float(e["t"]) for e in mine})
    first = next((float(e["t"]) for e in mine if e["event"] == "quiescing"), None)
    let_go = max((t for t in (times["released"], times["undone"]) if t is not None), default=None)
    released = next((e for e in reversed(mine) if e["event"] == "released"), None)
    reasons = list(dict.fromkeys(str(e["reason"]) for e in mine if e["event"] in _BAD and e.get("reason")))
    connected = next((e for e in reversed(mine) if e["event"] == "connected"), {})
    held = _was_held(application, mine, times, released, window, broken)
    saved: dict[str, str] = next((e["saved"] for e in reversed(mine) if e.get("saved")), {})
    return {
        "name": application.name,
        "policy": list(application.lineage),
        "proven": application.proven,
        "required": application.required,
        "can_give": application.level.word,
        "held": held,
        "because": [] if held else (reasons[-2:] or list(broken) or ["it was never quiesced"]),
        "attempts": sum(1 for e in mine if e["event"] == "attempt_failed") + (1 if times["quiesced"] else 0),
        "held_seconds": round(let_go - first, 6) if first is not None and let_go is not None else None,
        "stuck": first is not None and (let_go is None or let_go < (times["quiescing"] or 0.0)),
        "server_version": connected.get("version"),
        "variant": connected.get("variant", ""),
        "role": connected.get("role", ""),
        "left_alone": times["left_alone"] is not None,
        "sessions": connected.get("identities", {}),
        "saved": saved,
    }


_BAD = frozenset(
    {"attempt_failed", "left_alone", "lost", "not_verified", "release_failed", "undo_failed", "given_up"}
)


def _was_held(
    application: Application,
    mine: Sequence[Event],
    times: _Times,
    released: Event | None,
    window: tuple[float | None, float | None],
    broken: Sequence[str],
) -> bool:
    """Law 2: held without a break from before the snapshot to after it, proven at release."""
    if not application.has_steps:
        return True
    quiesced, verified = times["quiesced"], times["verified"]
    if broken or quiesced is None or verified is None or released is None or not released.get("held"):
        return False
    if any(
        e["event"] in ("lost", "not_verified", "undone", "release_failed") and e["t"] > quiesced for e in mine
    ):
        return False
    began, ended = window
    if began is not None and (quiesced > began or ended is None or verified < ended):
        return False
    return verified > quiesced


def failed(application: dict[str, Any]) -> bool:
    """Whether an application of a report had to be held, and was not."""
    return bool(application["required"] and not application["held"] and not application["left_alone"])


def _level(
    plan: Plan,
    events: Sequence[Event],
    applications: Sequence[dict[str, Any]],
    filesystems: Sequence[dict[str, Any]],
    snapshot: dict[str, Any],
    broken: Sequence[str],
) -> tuple[Level, list[str]]:
    """The level reached, and every reason why it is not higher."""
    begin = next((e for e in events if e["event"] == "begin"), {})
    because = [f"the hold was broken: {reason}" for reason in broken]
    if snapshot["state"] not in ("taken", "rehearsed", "left to the extension"):
        given_up = {e.get("app") for e in events if e["event"] == "given_up"}
        because += [f"{a['name']}: {'; '.join(a['because'])}" for a in applications if a["name"] in given_up]
        because.append(f"no snapshot: {snapshot.get('reason', snapshot['state'])}")
        return Level.NONE, [*because, *_causes(events)]
    unended = not any(e["event"] == "end" for e in events)
    if unended:
        because.append("the hold never came to its end")
    base = Level[str(begin.get("unfrozen_level", "crash")).upper()]
    if begin.get("kind") == "pre":
        base = Level.FILESYSTEM if plan.freeze.enabled else Level.CRASH
    elif filesystems and all(f["covers_snapshot"] for f in filesystems):
        base = max(base, Level.FILESYSTEM)
    because += [
        f"{f['mount']}: {f['reason']}"
        for f in filesystems
        if f["frozen"] and f.get("reason") and not f["covers_snapshot"]
    ]
    unfrozen = [str(e["reason"]) for e in events if e["event"] == "no_freeze"]
    if base < Level.FILESYSTEM and unfrozen:
        because += [f"filesystems were not frozen: {reason}" for reason in unfrozen]
    synced = any(e["event"] == "synced" for e in events)
    if base < Level.FILESYSTEM and not synced:
        because += [
            f"{e['mount']}: {_unwritten(e)}"
            for e in events
            if e["event"] in ("presync_hung", "presync_failed")
        ]
    achieved = [Level.APPLICATION]
    for application in applications:
        if not application["held"]:
            achieved.append(base)
            because.append(f"{application['name']}: {'; '.join(application['because'])}")
        else:
            achieved.append(_own_level(plan, application["name"]))
    if broken or unended or not any(a.has_steps for a in plan.applications):
        achieved.append(base)
    # A policy that asks for no freeze knows that its snapshot is atomic: what was written back before it
    # counts. One that asked for a freeze and got none does not.
    if base < Level.FILESYSTEM and (not synced or (unfrozen and plan.freeze.enabled)):
        achieved.append(base)
    return min(achieved), because


_HANGING = frozenset({"fanotify", "loop-order"})
"""Hazards that make a freeze or a writeback hang in the kernel."""


def _causes(events: Sequence[Event]) -> list[str]:
    """What was known, before the hold, to make those filesystems hang that did."""
    hung = {e["mount"] for e in events if e["event"] in ("freeze_hung", "presync_hung")}
    return [
        f"{e['filesystem']} hung, as the hazard {e['name']} lets expect: {e['what']}"
        for e in events
        if e["event"] == "hazard" and e["name"] in _HANGING and e.get("filesystem") in hung
    ]


def _own_level(plan: Plan, name: str) -> Level:
    application = next(a for a in plan.applications if a.name == name)
    return application.level if application.has_steps else Level.APPLICATION


def _framework_error(
    begin: Event, events: Sequence[Event], broken: Sequence[str], applications: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """The error that the extension shows for this outcome, by its published name."""
    if begin.get("kind") != "pre":
        return None
    detached = any(e["event"] == "detached" for e in events)
    if not detached:
        # A pre-script of ours gives up before the extension's timeout, so it never is Pre-ScriptTimeout.
        name = "Pre-ScriptExecutionFailed"
    elif broken or any(failed(a) for a in applications):
        name = "Post-ScriptExecutionFailed"
    else:
        return None
    entry = FRAMEWORK_ERRORS[name]
    return {"name": entry.name, "codes": list(entry.codes), "advice": entry.advice}


_SHOWN = {
    "hazard": "hazard: {name}: {what}",
    "presync": "writeback, round {round}",
    "presync_hung": "{mount}: the writeback hangs in the kernel",
    "presync_failed": "{mount}: the writeback failed: {reason}",
    "flusher_lost": "the writeback was interrupted",
    "connected": "{app}: connected ({variant})",
    "quiescing": "{app}: quiesce, attempt {attempt}",
    "step": "{app}: {phase}: {what}",
    "quiesced": "{app}: held",
    "left_alone": "{app}: {reason}",
    "attempt_failed": "{app}: attempt {attempt} failed: {reason}",
    "lost": "{app}: LOST: {reason}",
    "freezing": "{mount}: freeze",
    "frozen": "{mount}: frozen",
    "not_frozen": "{mount}: not frozen",
    "freeze_hung": "{mount}: the freeze hangs in the kernel",
    "no_freeze": "no freeze: {reason}",
    "synced": "written back (syncfs)",
    "detached": "held; handed off to the extension",
    "joined": "a backup's pre-script has joined this hold",
    "snapshot_begin": "snapshot: {provider}",
    "snapshot_end": "snapshot: done",
    "snapshot_refused": "snapshot: {reason}",
    "thawed": "{mount}: thawed",
    "thaw_failed": "{mount}: thaw FAILED: {reason}",
    "verified": "{app}: hold proven",
    "not_verified": "{app}: hold NOT proven: {reason}",
    "releasing": "{app}: release",
    "released": "{app}: released",
    "release_failed": "{app}: release failed: {reason}",
    "undone": "{app}: undone",
    "undo_failed": "{app}: undo FAILED: {reason}",
    "forgotten": "{app}: given up by the operator",
    "broken": "hold BROKEN: {reason}",
    "watchdog": "watchdog: {reason}",
    "end": "end",
}


def _timeline(events: Sequence[Event], zero: float) -> list[dict[str, Any]]:
    """Every event that people want to see, with its time since the begin, in seconds."""
    lines = []
    for event in events:
        pattern = _SHOWN.get(event["event"])
        if pattern is None:
            continue
        facts = {
            **dict.fromkeys(
                ("app", "mount", "reason", "attempt", "variant", "provider", "what", "phase", "round"), ""
            ),
            "name": "",
            **event,
        }
        entry = {
            "at": round(float(event["t"]) - zero, 6),
            "event": event["event"],
            "text": pattern.format(**facts),
        }
        if "seconds" in event:
            entry["seconds"] = event["seconds"]
        lines.append(entry)
    return lines
