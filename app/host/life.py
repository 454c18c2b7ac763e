"""Whether a process lives, and moves: by descriptors, since the number of one that ended may serve again."""

from __future__ import annotations

import contextlib
import os
import select
import signal

from app.host.precedence import hasten

STOPPED_BEATS = 5
"""Tenths of a second after which a process that was stopped (SIGSTOP) is taken for dead. Half of what it
takes for one that is silent: this is known of it, not concluded."""


class Life:
    """A process that is watched. Raises OSError where it has ended already.

    Opened while nothing is frozen; what follows opens nothing.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        try:
            self._stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._pidfd)
            raise

    def fileno(self) -> int:
        """A descriptor that becomes readable when the process ends."""
        return self._pidfd

    def ended(self, seconds: float = 0.0) -> bool:
        """Whether the whole process has ended, waiting ``seconds`` at most."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def stopped(self) -> bool:
        """Whether a signal or a tracer has stopped it (proc(5), state T or t).

        Not so one that waits for a processor, however long: it still moves by itself.
        """
        return self._state() in (b"T", b"t")

    def undead(self) -> bool:
        """Whether it has ended but for a thread that hangs in the kernel and keeps its descriptors open."""
        return self._state() == b"Z" and not self.ended()

    def _state(self) -> bytes:
        try:
            status = os.pread(self._stat, 512, 0)
        except OSError:
            return b""  # it has ended
        return status[status.rfind(b")") + 2 :][:1]

    def kill(self) -> None:
        """SIGKILL to it; never raises."""
        if not self.ended():
            hasten(self.pid)
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def kill_group(self) -> None:
        """SIGKILL to it, if it lives, and to all that it started in its group; never raises."""
        # While a leader lives, its group's number is its own.
        if not self.ended():
            hasten(self.pid)
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except OSError:
                self.kill()

    def over(self) -> bool:
        """Whether it has ended; if so it is closed, too."""
        if ended := self.ended():
            self.close()
        return ended

    def close(self) -> None:
        """Let go of its descriptors."""
        os.close(self._pidfd)
        os.close(self._stat)


class Started:
    """Processes that must not outlive the hold."""

    def __init__(self) -> None:
        self._lives: list[Life] = []
        self._turns_stopped = 0

    def add(self, pid: int) -> None:
        """Remember one, unless it has ended already."""
        self._lives = [life for life in self._lives if not life.over()]
        with contextlib.suppress(OSError):
            self._lives.append(Life(pid))

    def end(self) -> None:
        """SIGKILL to those that live, with all that they started in their sessions; never raises."""
        for life in self._lives:
            life.kill_group()
            life.close()
        self._lives.clear()

    def beat(self) -> bool:
        """Whether one of them has been stopped for STOPPED_BEATS; call it ten times a second."""
        self._turns_stopped = self._turns_stopped + 1 if any(life.stopped() for life in self._lives) else 0
        return self._turns_stopped >= STOPPED_BEATS
