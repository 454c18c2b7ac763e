"""Snapshot providers: who takes the snapshot in ``app run``. One file each.

A provider module publishes ``OPTIONS_SCHEMA`` (JSON Schema of its own keys in ``[snapshot]``) and
``provider(options) -> Provider``. The name in a policy has dashes where the module has underscores.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from app.errors import SnapshotFailed
from app.mechanisms import Waiter
from app.plan import Level


@dataclass(slots=True)
class Context:
    """What a provider may know and do.

    ``name``: the snapshot's name, safe as a file name. ``mounts``: the frozen mount points.
    ``deadline``: CLOCK_MONOTONIC seconds at which ``take`` must be over. ``asker``: a descriptor that
    becomes readable when the hold breaks. ``register``: tells the hold of a process that must not
    outlive it.
    """

    name: str
    mounts: tuple[str, ...]
    deadline: float = float("inf")
    asker: int | None = None
    register: Callable[[int], None] = lambda pid: None

    @property
    def waiter(self) -> Waiter:
        """Waits that end when the hold breaks."""
        return Waiter(self.asker)

    def until(self, seconds: float) -> float:
        """The time ``seconds`` from now, but never after the deadline."""
        return min(self.deadline, time.monotonic() + seconds)

    def pause(self, seconds: float) -> None:
        """Sleep. Raises SnapshotFailed as soon as the hold breaks."""
        poll = select.poll()
        if self.asker is not None:
            poll.register(self.asker, select.POLLIN)
        if poll.poll(max(0.0, self.until(seconds) - time.monotonic()) * 1000):
            raise SnapshotFailed("the hold was lost")


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that was taken: where it is, and what is worth keeping about it (JSON values).

    ``manifest``: where a file that tells of it may stand beside it, in a folder that ``prepare`` found
    to be root's alone; "" for nowhere.
    """

    reference: str
    details: Mapping[str, Any] = field(default_factory=dict)
    manifest: str = ""


class Provider(Protocol):
    """``prepare`` before the hold, ``take`` during it, ``finish`` after it.

    Contract, the same for every provider (tests/conformance holds each against it): ``prepare``
    finds everything that can be found wrong and opens all that ``take`` needs, and changes nothing
    that lasts; ``take`` does as little as possible, writes to no frozen filesystem, ends by the
    context's deadline and raises SnapshotFailed where there is no snapshot; ``finish`` runs always
    after a ``prepare``, once, whatever happened between, and may add to what is kept.
    """

    needs_freeze: bool
    """Whether the snapshot is taken below the filesystem, so that dirty pages would be missed."""

    freezes_itself: bool
    """Whether whoever takes the snapshot freezes the filesystems, so that we must not."""

    takes_snapshot: bool
    """False for ``none``: a rehearsal."""

    unfrozen_level: Level
    """What the snapshot alone gives when nothing was frozen."""

    def prepare(self, context: Context) -> None:
        """Before the hold. Raises HostUnfit."""

    def take(self, context: Context) -> Taken:
        """During the hold. Raises SnapshotFailed."""

    def finish(self, context: Context, taken: Taken | None) -> Mapping[str, Any]:
        """After the hold: further details for the report. Raises nothing but StillframeError."""


def names() -> list[str]:
    """Every provider there is, by the name that policies use, sorted."""
    return list(_names())


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__)))


def load(name: str) -> ModuleType:
    """The module of a provider; imported only when a plan uses it. Raises ModuleNotFoundError."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
