"""Forked processes of our own: a channel to each, and nothing else inherited by accident.

A fork keeps in memory all that was imported, so these processes need no file of the binary's once
they run, and their end is seen by a closed channel.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType

from app.host.precedence import hasten

_KEEP: set[int] = set()
"""Descriptors that every forked process keeps: the hold's lock."""


def keep_in_children(descriptor: int) -> None:
    """Let every process forked from now on keep this descriptor open."""
    _KEEP.add(descriptor)


@dataclass(slots=True)
class Child:
    """A forked process and the channel to it (SOCK_SEQPACKET: one send is one recv; b"" is its end)."""

    pid: int
    channel: socket.socket

    def end(self) -> None:
        """Kill and reap; never raises, never waits longer than a second."""
        self.channel.close()
        hasten(self.pid)
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        reap(self.pid, 1.0)


def receive(channel: socket.socket, size: int, flags: int = 0) -> bytes:
    """One message, b"" once the other end is gone. Raises BlockingIOError where none waits and we may not.

    Where the other end died without reading all that we had sent, the kernel says ECONNRESET first, once
    (net/unix/af_unix.c, unix_release_sock), and what it had said itself is still there to be read.
    """
    while True:
        try:
            return channel.recv(size, flags)
        except ConnectionResetError:
            continue
        except BlockingIOError:
            raise
        except OSError:
            return b""


def reap(pid: int, seconds: float) -> bool:
    """Collect a child's exit; False if it has not ended within ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return True
        if done:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.002)


def fork_child(
    body: Callable[[socket.socket], object],
    *,
    session: bool = False,
    also_keep: Iterable[int] = (),
    may_hang: bool = False,
) -> Child:
    """Fork a process that runs ``body(channel)`` and ends, with every other descriptor closed.

    Its stdin, stdout and stderr are /dev/null: whoever reads our output must not wait for it.
    ``may_hang``: nobody may have to wait for its end, so it keeps no lock.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        return Child(pid, ours)
    status = 70  # EX_SOFTWARE, sysexits.h
    try:
        if session:
            os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Not SIG_IGN, which the programs that it starts would have from it for good (signal(7)).
            signal.signal(number, _outlast if session else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        _close_others({theirs.fileno(), *also_keep, *(() if may_hang else _KEEP)})
        _silence()
        body(theirs)
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may get past os._exit
        if os.environ.get("STILLFRAME_DEBUG"):
            traceback.print_exc()
    finally:
        # Never back into the parent's code, its exit handlers or its buffers.
        os._exit(status)


def _outlast(_number: int, _frame: FrameType | None) -> None:
    """Go on: whoever is told to end by this signal is told so by its channel, too."""


def _close_others(keep: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor not in keep:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1) if os.environ.get("STILLFRAME_DEBUG") else (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)
