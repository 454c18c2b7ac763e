"""The watchdog: a process of its own that thaws when the holder dies or hangs.

It imports almost nothing, opens nothing, and trusts nobody to tell it: the holder's silence, its
closed channel and the deadline are what it acts on. Descriptors of the filesystems are inherited.

Messages from the holder, one a packet: ``beat``, ``freezing N``, ``frozen N``, ``thawed N``,
``pid P`` (a process that must not outlive the hold), ``keeper P`` (one that releases by itself when
the holder goes), ``deadline T`` (CLOCK_MONOTONIC seconds), ``end``. The watchdog answers ``beat``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence

TICK = 0.1
"""Seconds between two looks."""

SILENT_TICKS = 8
"""Ticks without a beat after which the holder counts as hanging. Ticks, not seconds, so that a
machine that was paused as a whole (by its host, for the snapshot) blames nobody."""

KEEPERS_GRACE = 1.4
"""Seconds for keepers to release by themselves; then they are killed."""

HOLDERS_GRACE = 0.3
"""Seconds for a killed holder to be gone; one that hangs in FIFREEZE takes longer."""

_FITHAW = 0xC0045878  # include/uapi/linux/fs.h; stated again so as to import nothing


class Watchdog:
    """Watches one holder. ``descriptors``: the filesystems it may freeze, in freezing order.

    ``aftermath(reason)`` is called once everything is thawed, if the holder did not end well: it
    releases what outlives a session and writes the report.
    """

    def __init__(
        self,
        channel: socket.socket,
        holder: int,
        descriptors: Sequence[int],
        note: Callable[..., None],
        names: Sequence[str],
        aftermath: Callable[[str], None],
    ) -> None:
        self._channel = channel
        self._holder = os.pidfd_open(holder)
        self._descriptors = list(descriptors)
        self._names = list(names)
        self._note = note
        self._aftermath = aftermath
        self._frozen: set[int] = set()
        self._keepers: dict[int, int] = {}
        self._others: dict[int, int] = {}
        self._deadline = float("inf")

    def watch(self) -> None:
        """Return when the hold has ended, well or badly."""
        reason = self._wait()
        if reason is None:
            return
        self._kill(self._holder)
        self._note("watchdog", reason=reason)
        self._thaw()
        if self._frozen and _ended(self._holder, HOLDERS_GRACE):
            # Its last FIFREEZE may have come back only now, or never have begun.
            self._thaw()
        self._end_processes()
        self._aftermath(reason)
        self._thaw_late()

    def _wait(self) -> str | None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        silent = 0
        while True:
            if poll.poll(TICK * 1000):
                silent = 0
                data = self._channel.recv(4096)
                if not data:
                    return "the holder died"
                if data == b"end":
                    return None
                self._heed(data.decode())
            else:
                silent += 1
                if silent >= SILENT_TICKS:
                    return "the holder did not move any more"
            if time.monotonic() > self._deadline:
                return "the holder outlived its deadline"

    def _heed(self, message: str) -> None:
        word, _, value = message.partition(" ")
        if word == "beat":
            with contextlib.suppress(OSError):
                self._channel.send(b"beat", socket.MSG_DONTWAIT)
        elif word in ("freezing", "frozen"):
            self._frozen.add(int(value))
        elif word == "thawed":
            self._frozen.discard(int(value))
        elif word == "deadline":
            self._deadline = float(value)
        elif word in ("pid", "keeper"):
            known = self._keepers if word == "keeper" else self._others
            with contextlib.suppress(OSError):  # it may have ended already
                known[int(value)] = os.pidfd_open(int(value))

    def _thaw(self) -> None:
        """Thaw all that may be frozen, each in a thread: one that blocks must not stop the others."""
        threads = [
            threading.Thread(target=self._thaw_one, args=(n,), daemon=True) for n in sorted(self._frozen)
        ]
        for thread in reversed(threads):
            thread.start()
        end = time.monotonic() + 1.0
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _thaw_one(self, number: int) -> None:
        gone = _ended(self._holder)
        try:
            fcntl.ioctl(self._descriptors[number], _FITHAW, 0)
        except OSError as error:
            if error.errno == errno.EINVAL and gone:
                self._frozen.discard(number)  # it never was frozen, and nobody is left to freeze it
                self._note("not_frozen", mount=self._names[number], by="watchdog")
            return
        if gone:
            self._frozen.discard(number)
        self._note("thawed", mount=self._names[number], by="watchdog")

    def _thaw_late(self) -> None:
        """A FIFREEZE of the dead holder may still hang in the kernel and succeed later."""
        while self._frozen:
            if _ended(self._holder, 0.25):
                time.sleep(0.02)  # a FITHAW that fails for good must not keep a processor busy
            self._thaw()

    def _end_processes(self) -> None:
        end = time.monotonic() + KEEPERS_GRACE
        poll = select.poll()
        waiting = set(self._keepers.values())
        for pidfd in waiting:
            poll.register(pidfd, select.POLLIN)
        while waiting and (left := end - time.monotonic()) > 0:
            for pidfd, _ in poll.poll(left * 1000):
                waiting.discard(pidfd)
                poll.unregister(pidfd)
        for pidfd in waiting:
            self._kill(pidfd)
        for pid, pidfd in self._others.items():
            if not _ended(pidfd):
                # The leader lives, so the group's number is still its own.
                try:
                    os.killpg(pid, signal.SIGKILL)
                except OSError:
                    self._kill(pidfd)

    @staticmethod
    def _kill(pidfd: int) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _ended(pidfd: int, seconds: float = 0.0) -> bool:
    """Whether the whole process has ended, waiting ``seconds`` at most."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
