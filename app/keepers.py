"""All applications of a hold: their keepers, and the order among them.

Connected together, quiesced as ``after`` says, independent ones at once; verified together,
released the reverse way. Each is tried again as its policy allows. Never blocks.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app import answers
from app.host.fork import Child, fork_child, reap, receive
from app.host.life import Started
from app.journal import Journal, read, saved_answers
from app.keeper import ALONE, Keeper
from app.paths import Paths
from app.plan import Application, Outcome, Plan

PAUSE = 1.0
"""Seconds between two attempts to quiesce."""

GRACE = 2.0
"""Seconds that a keeper may be late with an answer before it counts as hanging."""

SILENT_BEATS = 10
"""Beats without a sign of life after which a keeper, or the watchdog, counts as hanging. Counted in turns
of the holder's loop, so that a pause of the whole machine blames nobody."""

TO_END = 0.5
"""Seconds that a keeper may take to end."""

RECOVERIES = 2
"""Attempts to undo an application that was lost, by its keeper or, where that is lost too, by a new one."""

_BUSY = ("connecting", "quiescing", "verifying", "releasing", "lost", "recovering")
_TOUCHED = ("quiescing", "held", "verifying", "verified", "unverified", "releasing", "lost", "recovering")
_SETTLED = ("held", "failed", "left")
_KEPT = ("held", "verified", "unverified")


@dataclass(slots=True)
class _Kept:
    """One application and its keeper.

    ``due``: when the order in hand must be answered. ``silent``: beats since its last sign of life. ``left``:
    what was done to it could not be undone. ``recoveries``: how often undoing it was ordered.
    """

    application: Application
    child: Child | None = None
    state: str = "new"
    attempts: int = 0
    due: float = float("inf")
    retry: str = ""
    reason: str = ""
    held_since: float = float("inf")
    silent: int = 0
    left: bool = False
    recoveries: int = 0
    started: Started = field(default_factory=Started)

    @property
    def name(self) -> str:
        return self.application.name


class Keepers:
    """The keepers of one plan.

    ``tell_watchdog(message)`` passes on what the watchdog must know; ``lost(reason)`` is called when
    a required application that was connected or held is lost, ``moved()`` when ``deadline`` may have become
    another. ``may_recover()``: whether nothing is frozen that undoing an application might wait for.
    """

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        paths: Paths,
        tell_watchdog: Callable[[str], None],
        lost: Callable[[str], None],
        moved: Callable[[], None],
        may_recover: Callable[[], bool],
    ) -> None:
        self._journal = journal
        self._paths = paths
        self._tell_watchdog = tell_watchdog
        self._lost = lost
        self._moved = moved
        self._may_recover = may_recover
        self._all = [_Kept(a) for a in plan.applications]
        self._releasing = False

    def spawn(self) -> None:
        """Fork a keeper for every application that has steps."""
        for kept in self._all:
            if kept.application.has_steps:
                self._spawn(kept)
            else:
                kept.state = "held"

    def descriptors(self) -> dict[int, _Kept]:
        """The channels to listen on; give what belongs to a readable one to ``heed``."""
        return {k.child.channel.fileno(): k for k in self._all if k.child is not None}

    def deadline(self) -> float:
        """When the first of the holds ends, CLOCK_MONOTONIC seconds."""
        return min((k.held_since + k.application.timing.hold for k in self._all), default=float("inf"))

    def heed(self, kept: _Kept) -> None:
        """Take one message of a keeper."""
        assert kept.child is not None
        data = receive(kept.child.channel, 1 << 20)
        if not data:
            self._lose(kept, "its keeper died")
            return
        kept.silent = 0
        message = json.loads(data)
        if message["event"] == "pid":
            kept.started.add(message["pid"])
            self._journal.note("process", role="client", app=kept.name, pid=message["pid"])
            self._tell_watchdog(f"pid {message['pid']}")
        elif message["event"] == "lost":
            # Its keeper waits for the order to undo what outlives the connection.
            kept.state, kept.due = "lost", float("inf")
            self._lost_one(kept, message["reason"])
        elif message["event"] == "done":
            kept.left = bool(message.get("left"))
            if message.get("left_alone"):
                kept.state, kept.due, kept.reason = "left", float("inf"), message["reason"]
            else:
                self._answered(kept, message["order"], message["ok"], message["reason"])

    def beat(self) -> None:
        """Count the beats of keepers that show no life; call it once in TICK seconds."""
        for kept in self._all:
            kept.silent += 1
            if kept.started.beat():
                # Its keeper sees the end of it, and does what is to be done then.
                self._journal.note("stopped", app=kept.name)
                kept.started.end()

    def tick(self) -> None:
        """Give up keepers that hang."""
        now = time.monotonic()
        for kept in self._all:
            if kept.child is not None and kept.silent > SILENT_BEATS:
                self._lose(kept, "its keeper does not move any more")
            elif kept.state in _BUSY and now > kept.due:
                self._lose(kept, "its keeper did not answer in time")
            elif kept.state == "lost" and self._may_recover():
                self._recover(kept)

    # -- quiesce ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect all of them, at once."""
        for kept in self._all:
            if kept.state == "new":
                self._order(kept, "connect", "connecting", kept.application.timing.quiesce)

    def quiesce(self) -> bool:
        """Give every order that can be given now; True once each is held or given up."""
        now = time.monotonic()
        for kept in self._all:
            if kept.state == "waiting" and now >= kept.due:
                kept.due = float("inf")
                if kept.retry == "connect":
                    self._order(kept, "connect", "connecting", kept.application.timing.quiesce)
                else:
                    kept.state = "connected"
        if any(k.state in ("connecting", "new") for k in self._all) or any(
            k.state == "waiting" and k.retry == "connect" for k in self._all
        ):
            return False  # nobody is quiesced before everybody is connected
        for kept in self._all:
            before = [k for k in self._all if k.name in kept.application.after]
            if kept.state == "connected" and all(k.state in _SETTLED for k in before):
                self._order(kept, "quiesce", "quiescing", kept.application.timing.quiesce)
        return all(k.state in _SETTLED for k in self._all)

    def refused(self) -> bool:
        """Whether a required application could not be held."""
        return any(k.state == "failed" and k.application.required for k in self._all)

    # -- release ------------------------------------------------------------------------------

    def abandon(self) -> float:
        """Stop quiescing; what was begun is undone by its keeper. Seconds that all may take."""
        self._releasing = True
        for kept in self._all:
            if kept.state in ("connecting", "quiescing"):
                assert kept.child is not None
                kept.due = time.monotonic() + kept.application.timing.release + GRACE
                with contextlib.suppress(OSError):
                    kept.child.channel.send(b'{"do": "abandon"}')
            elif kept.state in ("new", "connected", "waiting"):
                kept.state = "failed"
        return (2 + RECOVERIES) * sum(k.application.timing.release + GRACE for k in self._all)

    def verify(self, *, broken: bool) -> None:
        """Ask every session for its proof, unless the hold is known to be broken."""
        for kept in self._all:
            if kept.state == "held":
                if kept.child is None:
                    kept.state = "released"
                elif broken:
                    kept.state = "unverified"
                else:
                    self._order(kept, "verify", "verifying", kept.application.timing.release)

    def release(self, outcome: Outcome) -> bool:
        """Release each once all that came after it are released; True when all are, or have failed."""
        if any(k.state in ("held", "verifying", "connecting", "quiescing") for k in self._all):
            return False
        for kept in self._all:
            if kept.left and kept.state not in _BUSY and kept.recoveries < RECOVERIES:
                self._recover(kept)
            later = [k for k in self._all if kept.name in k.application.after]
            ready = not any(k.state in (*_KEPT, *_BUSY) for k in later)
            if kept.state in ("verified", "unverified") and ready:
                told = outcome if kept.state == "verified" else Outcome.NONE
                self._order(kept, "release", "releasing", kept.application.timing.release, outcome=told)
        return not any(k.state in (*_KEPT, *_BUSY) for k in self._all)

    def close(self) -> None:
        """Let every keeper end."""
        for kept in self._all:
            if kept.child is not None:
                kept.child.channel.close()

    def end(self) -> None:
        """See that they have: one that was stopped would keep the lock."""
        begun = time.monotonic()
        for kept in self._all:
            # What is still to be undone it tries once more by itself.
            give_up = begun + (ALONE + GRACE if kept.left else TO_END)
            if kept.child is not None and not reap(kept.child.pid, max(0.0, give_up - time.monotonic())):
                kept.child.end()
                kept.started.end()

    # -- inside -------------------------------------------------------------------------------

    def _spawn(self, kept: _Kept) -> None:
        application, journal, paths = kept.application, self._journal, self._paths

        def remember(saved: Mapping[str, str]) -> None:
            answers.keep(paths, application.name, saved)

        lasting = remember if answers.needed(application) else None
        kept.child = fork_child(
            lambda channel: Keeper(application, channel, journal, lasting).serve(),
            session=True,
            also_keep=[journal.descriptor],
        )
        kept.silent = 0
        self._journal.note("process", role="keeper", app=kept.name, pid=kept.child.pid)
        self._tell_watchdog(f"keeper {kept.child.pid}")

    def _order(self, kept: _Kept, order: str, state: str, seconds: float, **facts: Any) -> None:
        assert kept.child is not None
        kept.state = state
        kept.due = time.monotonic() + seconds + kept.application.timing.release + GRACE
        message = {"do": order, "seconds": seconds, "attempt": kept.attempts + 1, **facts}
        try:
            kept.child.channel.send(json.dumps(message).encode())
        except OSError:
            self._lose(kept, "its keeper died")

    def _answered(self, kept: _Kept, order: str, ok: bool, reason: str) -> None:
        kept.due = float("inf")
        if order == "connect":
            self._tried(kept, "connected", order, ok, reason)
        elif order == "quiesce":
            self._tried(kept, "held", order, ok, reason)
            if ok:
                kept.held_since = time.monotonic()
                self._moved()
        elif order == "verify":
            kept.state = "verified" if ok else "unverified"
        else:
            kept.state = "released" if ok and order == "release" else "failed"
            self._is_held_no_more(kept)

    def _tried(self, kept: _Kept, state: str, order: str, ok: bool, reason: str) -> None:
        if ok:
            # Where it crossed our order to abandon: what is held is released, and nobody asks for its proof.
            given_up = {"connected": "failed", "held": "unverified"}
            kept.state = given_up[state] if self._releasing else state
            return
        kept.attempts += 1
        kept.state, kept.reason, kept.retry = "waiting", reason, order
        kept.due = time.monotonic() + PAUSE
        if kept.attempts > kept.application.timing.retries or self._releasing:
            kept.state, kept.due = "failed", float("inf")
            self._journal.note("given_up", app=kept.name, reason=reason, attempts=kept.attempts)

    def _lose(self, kept: _Kept, reason: str) -> None:
        """A keeper is gone: end what it started, and undo what outlives it with a new keeper."""
        assert kept.child is not None
        was = kept.state
        kept.child.end()
        kept.started.end()
        to_undo = was in _TOUCHED or kept.left
        kept.child, kept.due, kept.left = None, float("inf"), False
        self._journal.note("lost", app=kept.name, reason=reason)
        kept.state = "failed"
        if to_undo:
            if not kept.application.recover:
                self._journal.note("undone", app=kept.name)
            elif kept.recoveries < RECOVERIES:
                self._spawn(kept)
                kept.state = "lost"
        self._lost_one(kept, reason)

    def _recover(self, kept: _Kept) -> None:
        """Have its keeper undo it, by the answers of whoever quiesced it."""
        kept.recoveries += 1
        saved = saved_answers(read(self._paths.journal), kept.name)
        self._order(kept, "recover", "recovering", kept.application.timing.release, saved=saved)

    def _lost_one(self, kept: _Kept, reason: str) -> None:
        """A required application breaks the hold; without an optional one it goes on."""
        kept.reason = reason
        self._is_held_no_more(kept)
        if kept.application.required:
            self._lost(f"{kept.name}: {reason}")

    def _is_held_no_more(self, kept: _Kept) -> None:
        if kept.held_since != float("inf"):
            kept.held_since = float("inf")
            self._moved()
