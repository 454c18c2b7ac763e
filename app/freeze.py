"""Freezing and thawing filesystems: presync, FIFREEZE, FITHAW.

Constants: include/uapi/linux/fs.h, ``FIFREEZE _IOWR('X', 119, int)``, ``FITHAW _IOWR('X', 120, int)``.
Semantics: fs/super.c freeze_super() and thaw_super(): EBUSY if already frozen, EINVAL on a thaw of
what is not frozen. FIFREEZE first waits for writers and then writes back every dirty page while
new writers stand still, which is why the writeback is done before, with syncfs(2). How long it waits
for the kernel itself: ``app.host.grace``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from app.host.mounts import Mount

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878

QUICK = 0.05
"""Seconds: a syncfs round this short leaves little for FIFREEZE to write."""

ROUNDS = 8
"""Rounds of syncfs at most: under a steady load of writes the time of a round stops falling."""

STALE = 2
"""Rounds in a row that got no better, after which presync stops."""

PATIENCE = 0.5
"""Seconds that a thaw waits for a FIFREEZE in progress, which ends in milliseconds or hangs."""

Note = Callable[..., None]
"""Takes an event's name and facts: the journal's ``note`` or the like."""


@dataclass(slots=True)
class Target:
    """A filesystem to freeze, open since before the hold."""

    mount: Mount
    descriptor: int
    state: str = "idle"  # idle, freezing, frozen, thawed, failed
    error: int = 0


class FreezeFailed(Exception):
    """Not everything was frozen.

    ``busy``: somebody else holds a freeze. ``hung``: mounts that are still in FIFREEZE.
    """

    def __init__(self, message: str, *, busy: bool = False, hung: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.busy = busy
        self.hung = hung


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class _Batch:
    """Threads at work at once: how many still are, and whether somebody waits for the last of them."""

    running: int
    awaited: bool = True


_Order = Callable[[Target, _Batch], None]
_Orders = SimpleQueue[tuple[_Order, _Batch]]


@dataclass(frozen=True, slots=True)
class Writeback:
    """What a presync achieved.

    ``rounds``: seconds of each. ``hung``: mount points whose syncfs has not come back. ``failed``: errors
    by mount point.
    """

    rounds: tuple[float, ...] = ()
    hung: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all that was dirty when it began is written."""
        return not self.hung and not self.failed


def presync(
    targets: Sequence[Target],
    deadline: float,
    note: Note,
    rounds: int = ROUNDS,
    most_stale: int = STALE,
    least: int = 1,
) -> Writeback:
    """Write dirty pages back, in rounds, until a round over all targets is quick (see QUICK).

    ``least`` rounds, also where they are quick. Stops early after ``rounds``, at ``deadline``
    (CLOCK_MONOTONIC seconds), or after ``most_stale`` slow rounds in a row that got no better. A syncfs that
    has not come back by then stays in its thread, which nothing can end: ``app.flusher`` does this in a
    process that can be left behind. Never raises.
    """
    if not targets:
        return Writeback()
    took: list[float] = []
    failed: dict[str, str] = {}
    stale = 0
    for number in range(1, rounds + 1):
        begun = time.monotonic()
        threads = [threading.Thread(target=_syncfs, args=(t, failed), daemon=True) for t in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        hung = tuple(t.mount.path for t, thread in zip(targets, threads, strict=True) if thread.is_alive())
        if hung:
            return Writeback(tuple(took), hung, failed)
        seconds = time.monotonic() - begun
        note("presync", round=number, seconds=round(seconds, 6))
        stale = stale + 1 if took and seconds > 0.8 * min(took) else 0
        took.append(seconds)
        done = number >= least if seconds <= QUICK else stale >= most_stale
        if done or time.monotonic() >= deadline:
            break
    return Writeback(tuple(took), (), failed)


def _syncfs(target: Target, failed: dict[str, str]) -> None:
    if _libc().syncfs(target.descriptor) != 0:
        failed[target.mount.path] = os.strerror(ctypes.get_errno())


class Freezer:
    """Freezes targets group by group and thaws them, each in a thread that may block in the kernel.

    The caller is never blocked past its deadline. A FIFREEZE that comes back after we gave up is
    undone by its own thread at once. Of those that work at once the last notes what all have done, unless
    one fails: notes take longer than the calls, and writers stand still.
    """

    def __init__(self, targets: Sequence[Target], note: Note) -> None:
        self.targets = list(targets)
        self._note = note
        self._changed = threading.Condition()
        self._given_up = False
        self._patient_until = float("inf")
        self._orders: dict[int, _Orders] = {}
        self._unnoted: list[tuple[str, Mapping[str, Any]]] = []
        self._freezing = _Batch(0)

    def prepare(self) -> None:
        """Start the threads, so that none has to be started while anything is frozen."""
        for target in () if self._orders else self.targets:
            orders = self._orders[id(target)] = SimpleQueue()
            threading.Thread(target=self._serve, args=(target, orders), daemon=True).start()

    def freeze(self, deadline: float) -> None:
        """Freeze all targets: those of one depth together, deeper ones first, ``/`` last.

        Raises FreezeFailed (nothing of ours is left frozen but what hangs in the kernel).
        """
        if os.geteuid() != 0:
            raise FreezeFailed("only root can freeze filesystems")
        self.prepare()
        for depth in sorted({t.mount.depth for t in self.targets}, reverse=True):
            group = [t for t in self.targets if t.mount.depth == depth]
            if self._given_up:
                raise FreezeFailed("the hold ended meanwhile")
            for target in group:
                target.state = "freezing"
                self._note("freezing", mount=target.mount.path, device=target.mount.device)
            self._freezing = _Batch(len(group))
            self._together(group, self._freeze_one, self._freezing, "freezing", deadline)
            failed = [t for t in group if t.state != "frozen"]
            if failed:
                self._give_up(failed)

    def _give_up(self, failed: Sequence[Target]) -> None:
        with self._changed:
            self._given_up = True
            hung = tuple(t.mount.path for t in failed if t.state == "freezing")
        for path in hung:
            self._note("freeze_hung", mount=path)
        self.thaw(time.monotonic() + 1.5, patience=0.0)
        busy = [t for t in failed if t.state == "failed" and t.error == errno.EBUSY]
        if busy:
            raise FreezeFailed(
                f"{', '.join(t.mount.path for t in busy)}: already frozen by somebody else (EBUSY)",
                busy=True,
                hung=hung,
            )
        if hung:
            raise FreezeFailed(f"{', '.join(hung)}: FIFREEZE did not return in the time allowed", hung=hung)
        raise FreezeFailed(
            "; ".join(f"{t.mount.path}: FIFREEZE failed: {os.strerror(t.error)}" for t in failed)
        )

    def _freeze_one(self, target: Target, batch: _Batch) -> None:
        try:
            fcntl.ioctl(target.descriptor, FIFREEZE, 0)
        except OSError as error:
            target.error = error.errno or 0
            self._became(target, batch, "failed", "not_frozen", reason=os.strerror(target.error))
            return
        if self._became(target, batch, "frozen", "frozen"):
            self._thaw_one(target, _Batch(1, awaited=False))

    def _became(self, target: Target, batch: _Batch, state: str, event: str, **facts: str) -> bool:
        """See that it is noted, and only then let a waiter go on; whether we had given up meanwhile."""
        with self._changed:
            target.state = state
            self._unnoted.append((event, {"mount": target.mount.path, "t": time.monotonic(), **facts}))
            batch.running -= 1
            # Who survives us must know at once that one which failed is not ours to thaw.
            if state == "failed" or not batch.running or not batch.awaited:
                self._note_all()
            return self._given_up

    def _note_all(self) -> None:
        for event, facts in self._unnoted:
            self._note(event, **facts)
        self._unnoted.clear()
        self._changed.notify_all()

    def thaw(self, deadline: float, patience: float = PATIENCE) -> list[str]:
        """Thaw what we froze, the reverse way; returns the mount points that are still not thawed.

        A FIFREEZE that has not come back undoes itself when it does; it is waited for no longer than
        ``patience`` seconds from the first thaw on, because one that hangs must not hold up the release of
        applications, and giving up, the client and the release each thaw.
        """
        with self._changed:
            self._given_up = True
            self._patient_until = min(self._patient_until, time.monotonic() + patience)
            self._freezing.awaited = False
        frozen = [t for t in reversed(self.targets) if t.state == "frozen"]
        self._together(frozen, self._thaw_one, _Batch(len(frozen)), "frozen", deadline)
        with self._changed:
            self._changed.wait_for(
                lambda: all(t.state not in ("freezing", "frozen") for t in self.targets),
                max(0.0, min(deadline, self._patient_until) - time.monotonic()),
            )
        return [t.mount.path for t in self.targets if t.state == "frozen"]

    def unthawed(self) -> list[str]:
        """Mount points that are frozen, or may be any moment."""
        return [t.mount.path for t in self.targets if t.state in ("freezing", "frozen")]

    def held(self) -> bool:
        """Whether all targets are frozen."""
        return bool(self.targets) and all(t.state == "frozen" for t in self.targets)

    def _thaw_one(self, target: Target, batch: _Batch) -> None:
        found = thaw_descriptor(target.descriptor)
        if found in ("thawed", "not frozen"):
            self._became(target, batch, "thawed", "thawed", found=found)
        else:
            self._became(target, batch, "frozen", "thaw_failed", reason=found)

    def _serve(self, target: Target, orders: _Orders) -> None:
        while target.state not in ("failed", "thawed"):
            body, batch = orders.get()
            body(target, batch)

    def _together(
        self, targets: Sequence[Target], body: _Order, batch: _Batch, until: str, deadline: float
    ) -> None:
        """Do it to all at once, in their threads, until none is in the state ``until`` any more."""
        for target in targets:
            self._orders[id(target)].put((body, batch))
        with self._changed:
            self._changed.wait_for(
                lambda: all(t.state != until for t in targets), max(0.0, deadline - time.monotonic())
            )
            batch.awaited = False
            self._note_all()


def thaw_descriptor(descriptor: int) -> str:
    """FITHAW: "thawed", "not frozen" (EINVAL), or the name of the error."""
    try:
        fcntl.ioctl(descriptor, FITHAW, 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return "not frozen"
        return errno.errorcode.get(error.errno or 0, str(error))
    return "thawed"
