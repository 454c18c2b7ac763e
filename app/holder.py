"""The holder: the process that keeps a hold, from the first quiesce to the last release.

It owns the keepers (one process an application), freezes and thaws, obeys the client that started
it, and undoes everything when the client, a keeper or the watchdog is lost, or a deadline passes.
Its loop never blocks: what may block runs in a keeper, or in a thread (``app.filesystems``).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from app import control, journal, report
from app import manifest as manifests
from app.aftermath import Aftermath
from app.filesystems import THAW_SECONDS, Filesystems
from app.freeze import Target
from app.host.cgroup import stand_apart
from app.host.fork import fork_child, reap, receive
from app.host.life import Started
from app.host.memory import stay_resident
from app.host.precedence import take_precedence
from app.journal import Journal
from app.keepers import GRACE, SILENT_BEATS, Keepers
from app.manifest import Manifest
from app.paths import Paths
from app.plan import Outcome, Plan
from app.watchdog import TICK, Watchdog

THAW_STACK = 1 << 18
"""Bytes for each thread of the watchdog's, all of them locked in memory."""


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
        manifest: Manifest,
    ) -> None:
        self._plan = plan
        self._manifest = manifest
        self._kind = kind
        self._client: socket.socket | None = client
        self._client_started = Started()
        self._client_life = Started()
        self._journal = journal
        self._paths = paths
        self._filesystems = Filesystems(
            targets, journal, self._tell_watchdog, timeout=plan.freeze.timeout, sync_only=sync_only
        )
        self._give_up_at = give_up_at
        self._keepers = Keepers(
            plan, journal, paths, self._tell_watchdog, self._break, self._tell_deadline, self._may_recover
        )
        self._phase = "idle"  # idle, quiescing, held, releasing, done
        self._request = ""  # what the client waits for
        self._broken = ""
        self._outcome = Outcome.NONE
        self._rollback = False
        self._thawing = False
        self._detached = False
        self._control: control.Server | None = None
        self._results: deque[tuple[str, dict[str, Any]]] = deque()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._unanswered = 0
        self._last_beat = 0.0

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until everything is released and whoever asked has been told."""
        take_precedence(spared=True)  # before the watchdog and the keepers, who have it from us
        stay_resident(everything=False)
        self._client_life.add(os.getppid())
        self._journal.note("process", role="holder", pid=os.getpid())
        signal.signal(signal.SIGTERM, self._stop)
        self._start_watchdog()
        self._filesystems.start()
        self._keepers.spawn()
        if self._kind == "pre":
            # From the start: the extension calls the post-script even while a late pre-script runs.
            self._control = control.Server(self._paths)
        while self._phase != "done":
            for descriptor in self._wait():
                self._handle(descriptor)
            self._tick()
        self._finish()

    def _start_watchdog(self) -> None:
        holder = os.getpid()
        descriptors, grace = self._filesystems.descriptors, self._filesystems.grace
        names = [t.mount.path for t in self._filesystems.targets]

        def body(channel: socket.socket) -> None:
            stand_apart()  # before anything is held: our unit may be killed as a whole
            threading.stack_size(THAW_STACK)
            aftermath = Aftermath(self._plan, self._journal, self._paths)
            watchdog = Watchdog(
                channel, holder, descriptors, self._journal.note, names, aftermath.conclude, grace.restore
            )
            # The last resort must not have to read its own code from a disk that hangs.
            stay_resident(everything=True)
            watchdog.watch()

        also = [self._journal.descriptor, *descriptors, *grace.descriptors]
        self._watchdog = fork_child(body, session=True, also_keep=also)
        self._journal.note("process", role="watchdog", pid=self._watchdog.pid)

    def _wait(self) -> list[int]:
        poll = select.poll()
        if self._client is not None:
            poll.register(self._client, select.POLLIN)
        if self._control is not None:
            poll.register(self._control.descriptor, select.POLLIN)
        for descriptor in (self._wake_read, self._watchdog.channel.fileno(), *self._keepers.descriptors()):
            poll.register(descriptor, select.POLLIN)
        return [descriptor for descriptor, _ in poll.poll(TICK * 1000)]

    def _handle(self, descriptor: int) -> None:
        if descriptor == self._wake_read:
            self._thread_ended()
        elif self._client is not None and descriptor == self._client.fileno():
            self._heed_client()
        elif descriptor == self._watchdog.channel.fileno():
            self._heed_watchdog()
        elif self._control is not None and descriptor == self._control.descriptor:
            self._heed_control(self._control.receive())
        elif kept := self._keepers.descriptors().get(descriptor):
            self._keepers.heed(kept)

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._last_beat >= TICK:
            self._last_beat = now
            self._unanswered += 1
            self._tell_watchdog("beat")
            self._keepers.beat()
            self._filesystems.beat()
            self._watch_client()
            if self._unanswered > SILENT_BEATS:
                self._lose_watchdog("the watchdog does not answer")
        self._keepers.tick()
        if self._phase == "quiescing":
            if now > self._give_up_at:
                self._break("quiescing took longer than the time allowed")
            else:
                self._quiesce()
        if self._phase in ("quiescing", "held"):
            if now > self._keepers.deadline():
                self._break("the hold's deadline has passed")
            elif now > self._filesystems.deadline:
                self._break("the freeze's deadline has passed")
        if self._phase == "releasing" and not self._thawing:
            self._release()

    # -- those we talk to ---------------------------------------------------------------------

    def _heed_client(self) -> None:
        assert self._client is not None
        data = receive(self._client, 1 << 16)
        if not data:
            self._lose_client("the client program died")
            return
        message = json.loads(data)
        order = message["do"]
        if order == "register":
            self._client_started.add(message["pid"])
            self._tell_watchdog(f"pid {message['pid']}")
            self._journal.note("process", role="provider", pid=message["pid"])
            return
        self._request = order
        if order == "hold":
            self._phase = "quiescing"
            self._keepers.connect()
        elif order == "freeze":
            self._in_thread("freeze", self._freeze)
        elif order == "thaw":
            self._in_thread("thaw", self._filesystems.thaw)
        elif order == "release":
            self._outcome = Outcome(message["outcome"])
            self._begin_release()
        elif order == "abandon":
            self._break(message["reason"])
        elif order == "detach":
            if self._phase == "held" and not self._broken:
                self._detached = True
                self._journal.note("detached")
            self._reply(detached=self._detached)

    def _watch_client(self) -> None:
        if self._client_started.beat():
            self._client_started.end()  # whoever waits for it sees its end
        if self._client is not None and self._client_life.beat() and not self._detached:
            # It may stay so for ever, and what it says later must find nothing held.
            self._lose_client("the client program was stopped")

    def _lose_client(self, reason: str) -> None:
        if not self._detached:
            self._break(reason)
            self._reply()
        self._client = None
        self._client_started.end()

    def _heed_control(self, words: set[str]) -> None:
        if "abandon" in words:
            self._break("the pre-script failed after all was held")
        elif "release" not in words:
            return
        elif self._detached:
            self._journal.note("collected")
            self._outcome = Outcome.HANDED_OFF
            self._begin_release()
        else:
            self._break("the post-script came before everything was held")

    def _heed_watchdog(self) -> None:
        if receive(self._watchdog.channel, 4096):
            self._unanswered = 0
        else:
            self._lose_watchdog("the watchdog died")

    def _lose_watchdog(self, reason: str) -> None:
        """Without a watchdog nothing may stay held. One that only hangs would keep the lock."""
        self._watchdog.end()
        # Its place in the poll is taken by a channel that never speaks.
        self._watchdog.channel, self._silent_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._unanswered = -(1 << 30)
        self._break(reason)

    def _tell_watchdog(self, message: str, surely: bool = False) -> None:
        """Never blocks, unless ``surely``: then until it has room for the message, or has died."""
        # A failure is seen by its missing answers, or its closed channel.
        with contextlib.suppress(OSError):
            self._watchdog.channel.send(message.encode(), 0 if surely else socket.MSG_DONTWAIT)

    def _tell_deadline(self) -> None:
        """When the hold must have ended, as it stands now; a release has a deadline of its own."""
        if self._phase not in ("releasing", "done"):
            deadline = min(self._keepers.deadline(), self._filesystems.deadline)
            self._tell_watchdog(f"deadline {deadline + GRACE}")

    def _may_recover(self) -> bool:
        """Whether an application may be undone: what it needs for that may be on what is frozen."""
        return (self._phase == "releasing" and not self._thawing) or not self._filesystems.unthawed()

    def _reply(self, **facts: Any) -> None:
        self._request = ""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.send(json.dumps({"broken": self._broken, **facts}).encode())

    # -- quiesce, freeze, thaw ----------------------------------------------------------------

    def _quiesce(self) -> None:
        """Go on with quiescing; reply once all applications are held or given up."""
        settled = self._keepers.quiesce()
        if self._keepers.refused():
            self._rollback = True
            self._begin_release()
        elif settled:
            self._phase = "held"
            self._in_thread("settle", self._settle)

    def _in_thread(self, name: str, body: Callable[[], dict[str, Any]]) -> None:
        def work() -> None:
            self._results.append((name, body()))
            os.write(self._wake_write, b".")

        threading.Thread(target=work, daemon=True).start()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        # Our unit, or the machine, is being stopped: nobody may come any more to end the hold.
        self._results.append(("stop", {}))
        with contextlib.suppress(OSError):  # full: it will be read
            os.write(self._wake_write, b".")

    def _thread_ended(self) -> None:
        os.read(self._wake_read, 4096)
        while self._results:
            name, result = self._results.popleft()
            if name == "stop":
                self._break("the holder was told to end (SIGTERM)")
            elif name == "settle" and self._phase == "held":
                self._reply(held=True)
            elif name in ("freeze", "thaw") and self._request == name:
                self._reply(**result)
            elif name == "release":
                self._thawing = False
                self._keepers.verify(broken=bool(self._broken))
                self._release()

    def _settle(self) -> dict[str, Any]:
        """All are held: write down who, and where they stand; and write back, where nobody freezes."""
        found = report.build(self._plan, journal.read(self._paths.journal))
        wrong = self._manifest.write(manifests.before(found))
        self._journal.note("manifest", wrong=wrong)
        if self._filesystems.sync_only:
            self._filesystems.write_back()
        return {}

    def _freeze(self) -> dict[str, Any]:
        return self._filesystems.freeze(self._tell_deadline)

    # -- release ------------------------------------------------------------------------------

    def _break(self, reason: str) -> None:
        """The hold is lost: thaw and release everything now. During the release: claim nothing for it."""
        if self._phase == "done" or self._broken:
            return
        self._broken = reason
        self._journal.note("broken", reason=reason)
        self._begin_release()

    def _begin_release(self) -> None:
        if self._phase in ("releasing", "done"):
            return
        self._phase = "releasing"
        seconds = self._keepers.abandon()
        self._tell_watchdog(f"deadline {time.monotonic() + seconds + THAW_SECONDS + GRACE}")
        if self._rollback:
            # Nothing is frozen yet, and after a thaw nothing could be any more.
            self._keepers.verify(broken=bool(self._broken))
        else:
            self._thawing = True
            self._in_thread("release", self._filesystems.thaw)

    def _release(self) -> None:
        if not self._keepers.release(Outcome.NONE if self._broken else self._outcome):
            return
        if self._rollback and self._kind == "run" and not self._broken and self._client is not None:
            # The policy may want a snapshot of the filesystems all the same: the client decides.
            self._phase, self._rollback = "held", False
            self._tell_deadline()  # no application is held any more
            self._reply(held=False)
        else:
            self._phase = "done"

    def _finish(self) -> None:
        """Everything is released: tell whoever asked, then write the report."""
        self._journal.note("end")
        conclusion = Aftermath(self._plan, self._journal, self._paths)
        if self._control:
            status, words = conclusion.verdict()
            self._control.answer(status, words)
            self._control.close()
        self._keepers.close()
        self._filesystems.close()
        write = conclusion.write if self._detached or self._client is None else lambda: None
        if unthawed := self._filesystems.unthawed():
            # In a thread: the report's disk may be the very one whose freeze comes back late.
            writing = threading.Thread(target=write)
            writing.start()
            self._reply(held=False, released=True, stuck=unthawed)
            self._outlast_freeze()
            self._tell_watchdog("end")
            writing.join()
        else:
            # Before the report: its disk may be frozen by somebody else, and nothing of ours is left.
            self._tell_watchdog("end")
            write()
            self._reply(held=False, released=True, stuck=[])
        conclusion.clear()
        self._keepers.end()
        if not reap(self._watchdog.pid, 0.5):
            self._watchdog.end()  # stopped: it would keep the lock

    def _outlast_freeze(self) -> None:
        """Stay until all is thawed: a freeze that hangs is undone by its own thread once it comes back."""
        while self._filesystems.unthawed():
            self._tell_watchdog(f"deadline {time.monotonic() + 60}")
            self._tell_watchdog("beat")
            self._filesystems.thaw_again(TICK / 2)
            time.sleep(TICK / 2)
