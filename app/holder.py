"""The holder: the process that keeps a hold, from the first quiesce to the last release.

It owns the keepers (one process an application), freezes and thaws, obeys the client that started
it, and undoes everything when the client, a keeper or the watchdog is lost, or a deadline passes.
Its loop never blocks: what may block runs in a keeper, or in a thread of ``app.freeze``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app import control, freeze
from app.aftermath import Aftermath
from app.freeze import Freezer, FreezeFailed, Target
from app.host.fork import Child, fork_child, reap
from app.host.memory import stay_resident
from app.journal import Journal
from app.keeper import Keeper
from app.paths import Paths
from app.plan import Application, Plan
from app.watchdog import TICK, Watchdog

FREEZE_SECONDS = 10.0
"""After presync a FIFREEZE takes milliseconds; one that takes this long hangs."""

THAW_SECONDS = 1.5
PAUSE = 1.0
"""Seconds between two attempts to quiesce."""

GRACE = 2.0
"""Seconds that a keeper may be late with an answer before it counts as hanging."""

_BUSY = ("connecting", "quiescing", "verifying", "releasing", "recovering")
_HELD = ("held", "verified", "unverified")


@dataclass(slots=True)
class _Kept:
    """One application and its keeper. ``due``: when the order in hand must be answered."""

    application: Application
    child: Child | None = None
    state: str = "new"
    attempts: int = 0
    due: float = float("inf")
    retry: str = ""
    reason: str = ""
    quiesced_at: float = float("inf")
    pids: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.application.name


class Holder:
    """One hold. ``give_up_at``: CLOCK_MONOTONIC seconds by which all must be quiesced."""

    def __init__(
        self,
        plan: Plan,
        kind: str,
        client: socket.socket,
        journal: Journal,
        paths: Paths,
        targets: Sequence[Target],
        give_up_at: float,
        sync_only: bool,
    ) -> None:
        self._plan = plan
        self._kind = kind
        self._client: socket.socket | None = client
        self._journal = journal
        self._paths = paths
        self._targets = list(targets)
        self._sync_only = sync_only
        self._give_up_at = give_up_at
        self._freezer = Freezer([] if sync_only else self._targets, self._freeze_note)
        self._freeze_deadline = float("inf")
        self._kept = {a.name: _Kept(a) for a in plan.applications}
        self._phase = "idle"  # idle, quiescing, held, releasing, done
        self._request = ""  # what the client waits for
        self._broken = ""
        self._detached = False
        self._control: control.Server | None = None
        self._thread_results: deque[tuple[str, dict[str, Any]]] = deque()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._unanswered = 0
        self._last_beat = 0.0

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until everything is released and whoever asked has been told."""
        holder = os.getpid()
        stay_resident()
        self._journal.note("process", role="holder", pid=holder)
        number = self._journal.descriptor
        descriptors = [t.descriptor for t in self._targets]
        self._watchdog = fork_child(
            lambda channel: self._watch(channel, holder), session=True, also_keep=[number, *descriptors]
        )
        self._journal.note("process", role="watchdog", pid=self._watchdog.pid)
        for kept in self._kept.values():
            if kept.application.has_steps:
                self._spawn(kept)
            else:
                kept.state = "held"
        while self._phase != "done":
            for descriptor in self._wait():
                self._handle(descriptor)
            self._tick()
        self._finish()

    def _watch(self, channel: socket.socket, holder: int) -> None:
        stay_resident()
        names = [t.mount.path for t in self._targets]
        aftermath = Aftermath(self._plan, self._journal, self._paths)
        descriptors = [t.descriptor for t in self._targets]
        Watchdog(channel, holder, descriptors, self._journal.note, names, aftermath.conclude).watch()

    def _spawn(self, kept: _Kept) -> None:
        application, journal = kept.application, self._journal
        kept.child = fork_child(
            lambda channel: Keeper(application, channel, journal).serve(),
            session=True,
            also_keep=[journal.descriptor],
        )
        self._journal.note("process", role="keeper", app=kept.name, pid=kept.child.pid)
        self._tell_watchdog(f"keeper {kept.child.pid}")

    def _wait(self) -> list[int]:
        poll = select.poll()
        for channel in (self._client, self._watchdog.channel, *(k.child.channel for k in self._kept.values() if k.child)):
            if channel is not None:
                poll.register(channel.fileno(), select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        if self._control:
            poll.register(self._control.descriptor, select.POLLIN)
        return [descriptor for descriptor, _ in poll.poll(TICK * 1000)]

    def _handle(self, descriptor: int) -> None:
        if descriptor == self._wake_read:
            os.read(self._wake_read, 4096)
            self._thread_ended()
        elif self._client is not None and descriptor == self._client.fileno():
            self._heed_client()
        elif descriptor == self._watchdog.channel.fileno():
            self._heed_watchdog()
        elif self._control is not None and descriptor == self._control.descriptor:
            if "release" in self._control.receive():
                self._begin_release()
        else:
            for kept in self._kept.values():
                if kept.child is not None and kept.child.channel.fileno() == descriptor:
                    self._heed_keeper(kept)
                    return

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._last_beat >= TICK:
            self._last_beat = now
            self._unanswered += 1
            self._tell_watchdog("beat")
            # Counted in turns of our own loop: a pause of the whole machine blames nobody.
            if self._unanswered > 10:
                self._break("the watchdog does not answer")
        for kept in self._kept.values():
            if kept.state in _BUSY and now > kept.due:
                self._lose_keeper(kept, "its keeper did not answer in time")
        if self._phase == "quiescing":
            if now > self._give_up_at:
                self._break("quiescing took longer than the time allowed")
            self._advance()
        if self._phase in ("quiescing", "held"):
            if now > self._hold_deadline():
                self._break("the hold's deadline has passed")
            elif now > self._freeze_deadline:
                self._break("the freeze's deadline has passed")

    def _hold_deadline(self) -> float:
        return min((k.quiesced_at + k.application.timing.hold for k in self._kept.values()), default=float("inf"))

    # -- those we talk to ---------------------------------------------------------------------

    def _heed_client(self) -> None:
        assert self._client is not None
        try:
            data = self._client.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._client = None
            if not self._detached:
                self._break("the client program died")
            return
        order = json.loads(data)["do"]
        self._request = order
        if order == "hold":
            self._phase = "quiescing"
            for kept in self._kept.values():
                if kept.state == "new":
                    self._order(kept, "connect", "connecting", kept.application.timing.quiesce)
            self._advance()
        elif order == "freeze":
            self._run_thread("freeze", self._freeze)
        elif order == "thaw":
            self._run_thread("thaw", self._thaw)
        elif order == "release":
            self._begin_release()
        elif order == "detach":
            self._detach()

    def _heed_watchdog(self) -> None:
        try:
            data = self._watchdog.channel.recv(4096)
        except OSError:
            data = b""
        if data:
            self._unanswered = 0
            return
        reap(self._watchdog.pid, 0.1)
        self._watchdog.channel.close()
        # Its place in the poll is taken by a channel that never speaks.
        self._watchdog.channel, self._silent_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._unanswered = -(1 << 30)
        self._break("the watchdog died")

    def _tell_watchdog(self, message: str) -> None:
        try:
            self._watchdog.channel.send(message.encode(), socket.MSG_DONTWAIT)
        except OSError:
            pass  # seen by its missing answers, or its closed channel

    def _heed_keeper(self, kept: _Kept) -> None:
        assert kept.child is not None
        try:
            data = kept.child.channel.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._lose_keeper(kept, "its keeper died")
            return
        message = json.loads(data)
        if message["event"] == "pid":
            kept.pids.append(message["pid"])
            self._journal.note("process", role="client", app=kept.name, pid=message["pid"])
            self._tell_watchdog(f"pid {message['pid']}")
        elif message["event"] == "lost":
            kept.state, kept.reason = "failed", message["reason"]
            self._break(f"{kept.name}: {message['reason']}")
        else:
            self._answered(kept, message["order"], message["ok"], message["reason"])

    def _reply(self, **facts: Any) -> None:
        self._request = ""
        if self._client is not None:
            try:
                self._client.send(json.dumps({"broken": self._broken, **facts}).encode())
            except OSError:
                pass

    # -- quiesce ------------------------------------------------------------------------------

    def _order(self, kept: _Kept, order: str, state: str, seconds: float) -> None:
        assert kept.child is not None
        kept.state = state
        kept.due = time.monotonic() + seconds + kept.application.timing.release + GRACE
        message = {"do": order, "seconds": seconds, "attempt": kept.attempts + 1}
        try:
            kept.child.channel.send(json.dumps(message).encode())
        except OSError:
            self._lose_keeper(kept, "its keeper died")

    def _answered(self, kept: _Kept, order: str, ok: bool, reason: str) -> None:
        kept.due = float("inf")
        if order in ("connect", "quiesce"):
            if ok:
                kept.state = "connected" if order == "connect" else "held"
                if order == "quiesce":
                    kept.quiesced_at = time.monotonic()
                    self._tell_watchdog(f"deadline {self._hold_deadline() + GRACE}")
            else:
                kept.attempts += 1
                kept.state, kept.reason, kept.retry = "waiting", reason, order
                kept.due = time.monotonic() + PAUSE
                if kept.attempts > kept.application.timing.retries or self._phase != "quiescing":
                    self._give_up(kept)
            if self._phase == "releasing":
                self._advance_release()
        elif order == "verify":
            kept.state = "verified" if ok else "unverified"
            self._advance_release()
        else:
            kept.state = "released" if ok else "failed"
            self._advance_release()

    def _give_up(self, kept: _Kept) -> None:
        kept.state = "failed"
        self._journal.note("given_up", app=kept.name, reason=kept.reason, attempts=kept.attempts)

    def _advance(self) -> None:
        """Give every order that can be given; reply once all applications are held or given up."""
        if self._phase != "quiescing":
            return
        now = time.monotonic()
        all_kept = list(self._kept.values())
        if any(k.state == "failed" and k.application.required for k in all_kept):
            self._begin_release()
            return
        for kept in all_kept:
            if kept.state == "waiting" and now >= kept.due:
                kept.due = float("inf")
                if kept.retry == "connect":
                    self._order(kept, "connect", "connecting", kept.application.timing.quiesce)
                else:
                    kept.state = "connected"
        if any(k.state in ("connecting", "new") or (k.state == "waiting" and k.retry == "connect") for k in all_kept):
            return  # nobody is quiesced before everybody is connected
        for kept in all_kept:
            before = [self._kept[name] for name in kept.application.after if name in self._kept]
            if kept.state == "connected" and all(k.state in ("held", "failed") for k in before):
                self._order(kept, "quiesce", "quiescing", kept.application.timing.quiesce)
        if all(k.state in ("held", "failed") for k in all_kept):
            self._phase = "held"
            if self._sync_only:
                self._run_thread("sync", self._sync)
            else:
                self._reply(held=True)

    # -- freeze and thaw, in threads ----------------------------------------------------------

    def _run_thread(self, name: str, body: Callable[[], dict[str, Any]]) -> None:
        def work() -> None:
            self._thread_results.append((name, body()))
            os.write(self._wake_write, b".")

        threading.Thread(target=work, daemon=True).start()

    def _thread_ended(self) -> None:
        while self._thread_results:
            name, result = self._thread_results.popleft()
            if name == "sync":
                self._reply(held=True)
            elif name in ("freeze", "thaw") and self._request == name:
                self._reply(**result)
            elif name == "release-thaw":
                self._verify_all()

    def _sync(self) -> dict[str, Any]:
        freeze.presync(self._targets, time.monotonic() + FREEZE_SECONDS, self._journal.note, rounds=1)
        self._journal.note("synced")
        return {}

    def _freeze(self) -> dict[str, Any]:
        now = time.monotonic()
        freeze.presync(self._targets, now + FREEZE_SECONDS, self._journal.note, rounds=3)
        self._freeze_deadline = time.monotonic() + self._plan.freeze.timeout
        self._tell_watchdog(f"deadline {min(self._hold_deadline(), self._freeze_deadline) + GRACE}")
        try:
            self._freezer.freeze(min(self._freeze_deadline, time.monotonic() + FREEZE_SECONDS))
        except FreezeFailed as error:
            self._freeze_deadline = float("inf")
            return {"frozen": False, "reason": str(error), "busy": error.busy, "hung": list(error.hung)}
        return {"frozen": True}

    def _thaw(self) -> dict[str, Any]:
        stuck = self._freezer.thaw(time.monotonic() + THAW_SECONDS)
        self._freeze_deadline = float("inf")
        return {"stuck": stuck + self._freezer.hanging()}

    def _freeze_note(self, event: str, **facts: Any) -> None:
        if event in ("freezing", "frozen", "thawed"):
            number = next(i for i, t in enumerate(self._targets) if t.mount.path == facts["mount"])
            self._tell_watchdog(f"{event} {number}")
        self._journal.note(event, **facts)

    # -- release ------------------------------------------------------------------------------

    def _break(self, reason: str) -> None:
        """The hold is lost: thaw and release everything now."""
        if self._phase in ("releasing", "done") or self._broken:
            return
        self._broken = reason
        self._journal.note("broken", reason=reason)
        self._begin_release()

    def _begin_release(self) -> None:
        if self._phase in ("releasing", "done"):
            return
        self._phase = "releasing"
        longest = sum(k.application.timing.release for k in self._kept.values())
        self._tell_watchdog(f"deadline {time.monotonic() + 2 * longest + 5 + GRACE}")
        for kept in self._kept.values():
            if kept.state in ("connecting", "quiescing"):
                self._abandon(kept)
            elif kept.state in ("new", "connected", "waiting"):
                kept.state = "failed"
        self._run_thread("release-thaw", self._thaw)

    def _abandon(self, kept: _Kept) -> None:
        assert kept.child is not None
        kept.due = time.monotonic() + kept.application.timing.release + GRACE
        try:
            kept.child.channel.send(b'{"do": "abandon"}')
        except OSError:
            pass

    def _verify_all(self) -> None:
        for kept in self._kept.values():
            if kept.state == "held":
                if kept.child is None:
                    kept.state = "released"
                elif self._broken:
                    kept.state = "unverified"
                else:
                    self._order(kept, "verify", "verifying", kept.application.timing.release)
        self._advance_release()

    def _advance_release(self) -> None:
        """Release each application once all that came after it are released."""
        kept_all = list(self._kept.values())
        if any(k.state in ("held", "verifying") for k in kept_all):
            return
        for kept in kept_all:
            later = [k for k in kept_all if kept.name in k.application.after]
            if kept.state in ("verified", "unverified") and not any(k.state in (*_HELD, *_BUSY) for k in later):
                self._order(kept, "release", "releasing", kept.application.timing.release)
        if not any(k.state in (*_HELD, *_BUSY) for k in kept_all):
            self._phase = "done"

    def _lose_keeper(self, kept: _Kept, reason: str) -> None:
        """A keeper is gone: end what it started, and undo what outlives it with a new keeper."""
        assert kept.child is not None
        was = kept.state
        kept.child.end()
        for pid in kept.pids:
            _end_group(pid)
        kept.pids.clear()
        kept.child, kept.due = None, float("inf")
        self._journal.note("lost", app=kept.name, reason=reason)
        kept.state, kept.reason = "failed", reason
        if was in ("quiescing", *_HELD, "verifying", "releasing") and was != "recovering":
            if kept.application.recover:
                self._spawn(kept)
                self._order(kept, "recover", "recovering", kept.application.timing.release)
            else:
                self._journal.note("undone", app=kept.name)
        if self._phase == "releasing":
            self._advance_release()
        else:
            self._break(f"{kept.name}: {reason}")

    # -- the end ------------------------------------------------------------------------------

    def _detach(self) -> None:
        """The client leaves us alone with the hold; the post-script will come by the control FIFO."""
        if self._phase == "held" and not self._broken:
            self._control = control.Server(self._paths)
            self._detached = True
            self._journal.note("detached")
        self._reply(detached=self._detached)

    def _finish(self) -> None:
        """Everything is released: tell whoever asked, then write the report."""
        self._journal.note("end")
        conclusion = Aftermath(self._plan, self._journal, self._paths)
        if self._control:
            status, word = conclusion.verdict()
            self._control.answer(status, word)
            self._control.close()
        for kept in self._kept.values():
            if kept.child is not None:
                kept.child.channel.close()
        if self._detached or self._client is None:
            conclusion.write()
        self._reply(held=False, released=True, stuck=self._freezer.hanging())
        self._outlast_hanging_freeze()
        self._tell_watchdog("end")
        conclusion.clear()

    def _outlast_hanging_freeze(self) -> None:
        """A FIFREEZE that hangs is undone by its thread as soon as it comes back: stay until then."""
        while self._freezer.hanging():
            self._tell_watchdog(f"deadline {time.monotonic() + 60}")
            self._tell_watchdog("beat")
            time.sleep(TICK)


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
