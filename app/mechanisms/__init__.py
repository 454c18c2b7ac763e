"""Mechanisms: the few ways in which a recipe can reach an application. One file each.

A mechanism module publishes ``OPTIONS_SCHEMA`` and ``STEP_SCHEMA`` (JSON Schema of its own table
and of its own step keys) and ``connect(options, steps, waiter) -> Connection``.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import select
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Protocol

from app.plan import Options, Step


class StepFailed(Exception):
    """A step's answer was an error, did not match, or never came; the reason in one sentence."""


class ConnectionLost(StepFailed):
    """The client program or its session ended without being asked to."""


class TimedOut(StepFailed):
    """The time given to the step ran out."""


class Abandoned(Exception):
    """Whoever asked for the step wants it no more, or is gone."""


class Waiter:
    """Waits for a descriptor, never past a deadline and never past the asker's end.

    ``asker`` is readable (or hung up) as soon as the work in hand is to be abandoned.
    """

    def __init__(self, asker: int | None = None) -> None:
        self._asker = asker

    def forget_asker(self) -> None:
        """Nobody is left to abandon the work: only deadlines count from now on."""
        self._asker = None

    def wait(self, descriptor: int, deadline: float, *, write: bool = False) -> None:
        """Return when ``descriptor`` is ready.

        Raises TimedOut after ``deadline`` (CLOCK_MONOTONIC seconds), Abandoned when the asker
        speaks or hangs up.
        """
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT if write else select.POLLIN)
        if self._asker is not None:
            poll.register(self._asker, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOut("no answer in the time allowed")
            ready = {fd for fd, _ in poll.poll(min(left, 60.0) * 1000 + 1)}
            if self._asker in ready:
                raise Abandoned
            if descriptor in ready:
                return

    def rest(self, seconds: float) -> None:
        """Wait, and no longer than the asker wants it. Raises Abandoned."""
        poll = select.poll()
        if self._asker is not None:
            poll.register(self._asker, select.POLLIN)
        if poll.poll(seconds * 1000):
            raise Abandoned


class Connection(Protocol):
    """A live way to one application, used by one keeper process, from connect to close."""

    identity: str
    """What the server calls this session (empty where it has no name); must not change."""

    version: int | None
    """The server's version as the recipe asks for it, or None."""

    def perform(self, step: Step, deadline: float) -> str:
        """Do one step and return its answer; raises StepFailed, Abandoned."""

    def prove(self, deadline: float) -> None:
        """Raise ConnectionLost unless the very same session still answers."""

    def lost(self) -> int | None:
        """A descriptor that becomes readable when the connection is lost while idle, or None."""

    def close(self, deadline: float) -> None:
        """End in good order; never raises."""

    def kill(self) -> None:
        """End at once, with every process of this connection; never raises."""


Register = Callable[[int], None]
"""Tells the holder and the watchdog of a process that must not outlive the hold."""


class Mechanism(Protocol):
    """What a mechanism's module offers."""

    OPTIONS_SCHEMA: dict[str, object]
    STEP_SCHEMA: dict[str, object]

    def connect(
        self, options: Options, steps: Sequence[Step], waiter: Waiter, register: Register, deadline: float
    ) -> Connection:
        """Open what ``steps`` will need; raises StepFailed, Abandoned, StillframeError."""


def names() -> list[str]:
    """Every mechanism there is, sorted."""
    return list(_names())


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def load(name: str) -> ModuleType:
    """The module of a mechanism; imported only when a plan uses it. Raises ModuleNotFoundError."""
    return importlib.import_module(f"{__name__}.{name}")
