"""The watchdog: a process of its own that thaws when the holder dies or hangs.

It imports almost nothing, opens nothing, and trusts nobody to tell it: the holder's silence, its
closed channel and the deadline are what it acts on. Descriptors of the filesystems are inherited.

Messages from the holder, one a packet: ``beat``, ``freezing N``, ``thawed N``, ``expedited 0 or 1``,
``pid P`` (a process that must not outlive the hold), ``keeper P`` (one that releases by itself when
the holder goes), ``deadline T`` (CLOCK_MONOTONIC seconds), ``end``. The watchdog answers ``beat``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence

from app.host.fork import receive
from app.host.life import Life

TICK = 0.1
"""Seconds between two looks."""

SILENT_TICKS = 8
"""Ticks without a beat after which the holder counts as hanging. Ticks, not seconds, so that a
machine that was paused as a whole (by its host, for the snapshot) blames nobody."""

THAW_GRACE = 0.4
"""Seconds to wait for thaws; those that take longer must not hold up the release of applications."""

KEEPERS_GRACE = 1.4
"""Seconds for keepers to release by themselves; then they are killed."""

AGAIN = 0.02
"""Seconds between two attempts to thaw what a FIFREEZE may still come back to."""

HOLDERS_GRACE = 0.3
"""Seconds for a killed holder to be gone; one that hangs in FIFREEZE takes longer."""

_FITHAW = 0xC0045878  # include/uapi/linux/fs.h; stated again so as to import nothing


class Watchdog:
    """Watches one holder. ``descriptors``: the filesystems it may freeze, in freezing order.

    ``aftermath(reason)`` is called once everything is thawed, if the holder did not end well: it
    releases what outlives a session and writes the report. ``restore()``: makes the kernel's grace periods
    ordinary again, if the holder had them expedited (``app.host.grace``).
    """

    def __init__(
        self,
        channel: socket.socket,
        holder: int,
        descriptors: Sequence[int],
        note: Callable[..., None],
        names: Sequence[str],
        aftermath: Callable[[str], None],
        restore: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._holder = Life(holder)
        self._descriptors = list(descriptors)
        self._names = list(names)
        self._note = note
        self._aftermath = aftermath
        self._restore = restore
        self._expedited = False
        self._frozen: set[int] = set()
        self._let_go: set[int] = set()
        self._thaws = [_Thaw(functools.partial(self._thaw_one, n)) for n in range(len(descriptors))]
        self._keepers: list[Life] = []
        self._others: list[Life] = []
        self._deadline = float("inf")

    def watch(self) -> None:
        """Return when the hold has ended, well or badly."""
        reason = self._wait()
        if reason is None:
            return
        self._holder.kill()
        self._catch_up()
        self._note("watchdog", reason=reason)
        self._slow_down()
        self._thaw()
        if self._holder.ended(HOLDERS_GRACE):
            # Its last FIFREEZE may have come back only now, or never have begun.
            self._catch_up()
            self._slow_down()
            self._thaw()
        self._end_processes()
        try:
            self._aftermath(reason)
        except Exception as error:  # noqa: BLE001 - whatever it is, what is frozen comes first
            self._note("aftermath_failed", reason=f"{type(error).__name__}: {error}")
        self._thaw_late()

    def _wait(self) -> str | None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        silent = 0
        while True:
            if poll.poll(TICK * 1000):
                silent = 0
                data = receive(self._channel, 4096)
                if not data:
                    return "the holder died"
                if data == b"end":
                    return None
                self._heed(data.decode())
            else:
                silent += 1
                if self._holder.undead():
                    return "the holder died"
                if silent >= SILENT_TICKS:
                    return "the holder did not move any more"
            if time.monotonic() > self._deadline:
                return "the holder outlived its deadline"

    def _catch_up(self) -> None:
        """Heed what the holder said last: it may have begun to freeze, or started somebody."""
        with contextlib.suppress(BlockingIOError):
            while data := receive(self._channel, 4096, socket.MSG_DONTWAIT):
                self._heed(data.decode())
        # It may have been killed before it had noted what it told us.
        for number in sorted(self._let_go):
            self._note("not_frozen", mount=self._names[number])
        self._let_go.clear()

    def _heed(self, message: str) -> None:
        word, _, value = message.partition(" ")
        if word == "beat":
            with contextlib.suppress(OSError):
                self._channel.send(b"beat", socket.MSG_DONTWAIT)
        elif word == "freezing":
            self._frozen.add(int(value))
        elif word == "thawed":
            self._frozen.discard(int(value))
            self._let_go.add(int(value))
        elif word == "expedited":
            self._expedited = value == "1"
        elif word == "deadline":
            self._deadline = float(value)
        elif word in ("pid", "keeper"):
            known = self._keepers if word == "keeper" else self._others
            known[:] = [life for life in known if not life.over()]
            with contextlib.suppress(OSError):  # it may have ended already
                known.append(Life(int(value)))

    def _slow_down(self) -> None:
        if self._expedited:
            self._restore()

    def _thaw(self) -> None:
        """Thaw all that may be frozen: what is not done at once goes on in its thread."""
        thaws = [self._thaws[n] for n in sorted(self._frozen, reverse=True)]
        for thaw in thaws:
            thaw.begin()
        end = time.monotonic() + THAW_GRACE
        for thaw in thaws:
            thaw.wait(max(0.0, end - time.monotonic()))

    def _thaw_one(self, number: int) -> bool:
        """Whether nothing is left to be done: it is thawed, or never was frozen and never will be."""
        gone = self._holder.ended()
        try:
            fcntl.ioctl(self._descriptors[number], _FITHAW, 0)
        except OSError as error:
            if error.errno != errno.EINVAL or not gone:
                return False
            self._note("not_frozen", mount=self._names[number], by="watchdog")
        else:
            self._note("thawed", mount=self._names[number], by="watchdog")
        self._frozen.discard(number)
        return True

    def _thaw_late(self) -> None:
        """Stay for as long as a FIFREEZE of the dead holder hangs in the kernel: it may succeed later."""
        while self._frozen:
            self._thaw()

    def _end_processes(self) -> None:
        # Of a holder that is dead and hangs in FIFREEZE the keepers have heard nothing.
        end = time.monotonic() + (KEEPERS_GRACE if self._holder.ended() else 0.0)
        for keeper in self._keepers:
            if not keeper.ended(max(0.0, end - time.monotonic())):
                keeper.kill()
        for other in self._others:
            other.kill_group()


class _Thaw:
    """One filesystem's FITHAW, in a thread of its own: one that blocks must not stop the others.

    It is tried again until there is nothing left to do, whatever the watchdog itself does meanwhile: a freeze
    that succeeds late may be of the very filesystem that the report is being written to. The thread is
    started with the watchdog: where memory is short there may be none for another later.
    """

    def __init__(self, body: Callable[[], bool]) -> None:
        self._body = body
        self._order, self._idle = threading.Lock(), threading.Lock()
        self._order.acquire()
        threading.Thread(target=self._serve, daemon=True).start()

    def begin(self) -> None:
        """Thaw it, if that is not being done already."""
        if self._idle.acquire(blocking=False):
            self._order.release()

    def wait(self, seconds: float) -> None:
        """Return when it is done, or after ``seconds``."""
        if self._idle.acquire(timeout=seconds):
            self._idle.release()

    def _serve(self) -> None:
        while True:
            self._order.acquire()
            while not self._body():
                time.sleep(AGAIN)
            self._idle.release()
