"""What must be true after a blow: laws 1 to 3 of the design, each by evidence from outside the program."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app import history
from app.journal import Event
from tests import scratch
from tests.integration.strike import LIMIT, last_hold, thaw_is_refused
from tests.matrix.blows import PAUSE, STOP, Blow, Struck, is_alive, send, strike
from tests.matrix.forms import Form, Running
from tests.matrix.lane import Lane

LONGEST = 20.0
"""Seconds after which a cycle counts as hanging."""

HARMLESS = frozenset({"flusher", "script"})
"""Roles whose loss need not cost the hold: one only spares writers a wait, the other only waits itself."""


@dataclass(slots=True)
class Outcome:
    """What came of a blow; times are seconds after it, None where nothing was frozen or held then."""

    blow: Blow | None
    hit: bool = True
    thawed: float | None = None
    released: float | None = None
    free: float = 0.0
    level: str = ""
    reason: str = ""
    wrong: list[str] = field(default_factory=list)
    words: str = ""
    events: Sequence[Event] = ()

    def line(self, number: int) -> str:
        """One line for the reader."""
        blow = self.blow
        assert blow is not None
        later = f"+{blow.later}" if blow.later else ""
        what = f"{blow.form:10} {blow.victim:15} {blow.signal + later:14} {blow.instant} +{blow.delay:.4f}"
        if not self.hit:
            return f"{number:4} {what}: had ended by then {self._verdict()}"
        times = [("thawed", self.thawed), ("released", self.released), ("free", self.free)]
        said = " ".join(f"{name} {t:.3f}" for name, t in times if t is not None)
        return f"{number:4} {what}: {said} level {self.level or '-'} ({self.reason}) {self._verdict()}"

    def _verdict(self) -> str:
        return "ok" if not self.wrong else f"FAILED: {'; '.join(self.wrong)}"


def suffer(lane: Lane, form: Form, blow: Blow) -> Outcome:
    """Strike one blow in one cycle, and hold the laws against what follows."""
    lane.forget()
    before = set(history.numbers(lane.where.paths))
    scratch.freeze(lane.foreign.mount)
    running = form.start(lane)
    struck = strike(lane, blow, running)
    outcome = Outcome(blow, hit=struck.hit)
    wrong = outcome.wrong
    if blow.role == "app" and blow.signal == STOP and struck.hit:
        # The client cannot go on: what it asked for must be undone all the same.
        _until(lambda: any(e["event"] == "end" for e in lane.where.events()), struck.moment + LIMIT + 0.5)
        events = lane.where.events()
        undone = [e["event"] for e in events]
        send(struck.pid, signal.SIGCONT)
        # Stopped before it had forked a holder, it holds nothing.
        if _guarded(events) and "end" not in undone and "detached" not in undone:
            wrong.append("the hold outlived its stopped client")
    if not running.wait(LONGEST):
        wrong.append(f"hangs after {LONGEST} s")
        lane.mend()
        running.wait(LONGEST)
    free = lane.where.wait_until_free(LONGEST)
    outcome.free = free
    events = lane.where.events()
    outcome.words, outcome.events = running.words(), events
    wrong += running.complaints()
    _check_thawed(lane, form, running, struck, events, outcome)
    _check_released(lane, form, running, struck, events, outcome)
    _check_claims(lane, form, running, struck, events, before, outcome)
    if not scratch.thaw(lane.foreign.mount):
        wrong.append("what somebody else had frozen was thawed")
    _until(lambda: not _left(events), time.monotonic() + 1)
    wrong += [f"left behind: {who}" for who in _left(events)]
    if free > 3 and not wrong:
        wrong.append(f"the lock was held for {free:.1f} s longer")
    _check_next(lane, form, events, before, wrong)
    return outcome


def undisturbed(lane: Lane, form: Form) -> list[str]:
    """Run one cycle to its end; what is wrong with it."""
    running = form.start(lane, 0.05)
    if not running.wait(LONGEST):
        lane.mend()
        return [f"the next cycle hangs: {running.words()}"]
    lane.where.wait_until_free(LONGEST)
    numbers = history.numbers(lane.where.paths)
    report = history.load(lane.where.paths, numbers[-1]) if numbers else {}
    if not running.said_so() or report.get("achieved") != "application" or report.get("because"):
        return [f"the next cycle: {running.words()} {report.get('because')}"]
    return running.complaints()


def _fatal(blow: Blow, struck: Struck) -> bool:
    return struck.hit and blow.signal != PAUSE and blow.role not in HARMLESS


def _check_thawed(
    lane: Lane, form: Form, running: Running, struck: Struck, events: Sequence[Event], outcome: Outcome
) -> None:
    assert outcome.blow is not None
    for mount in form.mounts(lane):
        if not thaw_is_refused(mount):
            outcome.wrong.append(f"{mount} was still frozen in the end")
        stalls = [(a, b) for a, b in lane.pulses[mount].stood_still() if b > struck.moment]
        ended = max((min(b, time.monotonic()) for _, b in stalls), default=None)
        if ended is None or (running.frozen() or (0.0, 0.0))[1] > struck.moment:
            continue
        if any(a < struck.moment for a, _ in stalls):
            outcome.thawed = max(outcome.thawed or 0.0, ended - struck.moment)
        if _fatal(outcome.blow, struck) and ended - struck.moment > LIMIT:
            outcome.wrong.append(f"{mount} took no writes until {ended - struck.moment:.3f} s after")


def _check_released(
    lane: Lane, form: Form, running: Running, struck: Struck, events: Sequence[Event], outcome: Outcome
) -> None:
    assert outcome.blow is not None
    writers = form.writers or {"base": "postgresql"}
    since = last_hold(events, struck.moment) if struck.hit else struck.moment
    for application, writer in writers.items():
        first = lane.commits[writer].first_after(since, LONGEST)
        if first is None:
            outcome.wrong.append(f"{application}: no commit was accepted in the end")
            continue
        held = [e for e in events if e.get("app") == application and e["t"] < struck.moment]
        state = next((e["event"] for e in reversed(held) if e["event"] in _STATES), "")
        # Until then nothing could be written, whoever had released what.
        begun, ended = running.frozen() or (0.0, 0.0)
        if state in ("quiescing", "quiesced") and not (struck.moment < ended and begun < first):
            outcome.released = max(outcome.released or 0.0, first - struck.moment)
        allowed = max(struck.moment + LIMIT, ended + 0.5 if begun < first else 0.0)
        if _fatal(outcome.blow, struck) and first > allowed:
            outcome.wrong.append(f"{application}: no commit until {first - struck.moment:.3f} s after")


_STATES = frozenset({"quiescing", "quiesced", "released", "undone"})


def _check_claims(
    lane: Lane,
    form: Form,
    running: Running,
    struck: Struck,
    events: Sequence[Event],
    before: set[int],
    outcome: Outcome,
) -> None:
    """Law 2: no claim of ``application`` that writers, or the time of the blow, disprove."""
    assert outcome.blow is not None
    wrong = outcome.wrong
    reports = _reports(lane, before)
    outcome.level = ",".join(r["achieved"] for r in reports)
    outcome.reason = "; ".join(str(e["reason"]) for e in events if e["event"] == "broken")[:120]
    if any(r["stuck"] for r in reports):
        wrong.append(f"a report says stuck: {[r['stuck'] for r in reports]}")
    claimed = running.said_so() or "application" in outcome.level
    if not struck.hit and not (running.gave_up() if form.refused else claimed):
        wrong.append(f"nobody was struck, and it failed: {running.words()}")
    if not claimed:
        return
    window = running.window()
    if window is None:
        wrong.append("application is claimed without a snapshot")
        return
    for application, writer in form.writers.items():
        if commits := lane.commits[writer].between(*window):
            wrong.append(f"{application}: {len(commits)} commits during a snapshot called application")
    verified = [float(e["t"]) for e in events if e["event"] == "verified"]
    # Neither holds anything itself, and a hold may end before it is missed that they were stopped.
    noticed = outcome.blow.role not in ("watchdog", "app") or struck.killed
    if noticed and _fatal(outcome.blow, struck) and (not verified or struck.moment < max(verified)):
        wrong.append("application is claimed, but the hold had lost one of its processes before its proof")


def _guarded(events: Sequence[Event]) -> bool:
    """Whether there was somebody to end the hold in order; before, nothing is touched."""
    return any(e["event"] == "process" and e["role"] == "watchdog" for e in events)


def _check_next(lane: Lane, form: Form, events: Sequence[Event], before: set[int], wrong: list[str]) -> None:
    left = "nothing was left" if _guarded(events) else ""
    status, output, errors = lane.where.app("recover")
    if status != 0 or left not in output:
        wrong.append(f"app recover: {status} {output.strip()} {errors.strip()}")
    begun = any(e["event"] == "begin" for e in events)
    # Whoever is killed right after the begin has not put its plan down, so nobody can tell of it.
    if len(found := _reports(lane, before)) not in ({int(begun)} if len(events) > 1 else {0, 1}):
        wrong.append(f"{len(found)} reports of one hold: {[r['achieved'] for r in found]}")
    if thawed := lane.thaw():
        wrong.append(f"had to be thawed by the test: {thawed}")
    wrong += undisturbed(lane, form)


def _reports(lane: Lane, before: set[int]) -> list[dict[str, Any]]:
    paths = lane.where.paths
    return [history.load(paths, number) for number in history.numbers(paths) if number not in before]


def _left(events: Sequence[Event]) -> list[str]:
    """Processes of the hold that still live."""
    return [f"{e['role']} {e['pid']}" for e in events if e["event"] == "process" and is_alive(int(e["pid"]))]


def _until(condition: Callable[[], bool], end: float) -> None:
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
