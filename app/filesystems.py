"""The filesystems of a hold: written back, frozen and thawed, where one that hangs holds up nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from app.flusher import Flusher
from app.freeze import FreezeFailed, Freezer, Target, Writeback
from app.host.grace import GracePeriods
from app.host.life import Started
from app.journal import Journal

PRESYNC_SECONDS = 5.0
"""Writeback while applications stand still, after that before the hold: what they wrote since."""

PRESYNC_ROUNDS = 3
"""All of them where they are quick: each takes a millisecond or two, and what writers have changed since the
first would make FIFREEZE wait for the kernel's next tick (XFS pushes its log's tail anew after 10 ms:
xfsaild_push() in fs/xfs/xfs_trans_ail.c). Measured with eight filesystems: 6 to 8 ms instead of 16."""

SYNC_SECONDS = 10.0
"""The only writeback, where nothing is frozen."""

FREEZE_SECONDS = 5.0
"""After presync a FIFREEZE takes milliseconds; one that takes this long hangs."""

THAW_SECONDS = 1.5


class Filesystems:
    """Those that one hold freezes, or only writes back (``sync_only``).

    ``timeout``: seconds from the order to freeze to the thaw, at most. ``tell(message, surely)`` passes on
    what the watchdog must know. What may take long is to be called in a thread.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        journal: Journal,
        tell: Callable[[str, bool], None],
        *,
        timeout: float,
        sync_only: bool,
    ) -> None:
        self.targets = list(targets)
        self.sync_only = sync_only
        self.deadline = float("inf")
        """When a freeze in progress must end, CLOCK_MONOTONIC seconds."""
        self.grace = GracePeriods()
        self._journal = journal
        self._tell = tell
        self._timeout = timeout
        self._freezer = Freezer([] if sync_only else self.targets, self._note)
        self._flusher: Flusher | None = None
        self._started = Started()

    @property
    def descriptors(self) -> list[int]:
        """What the watchdog needs: the filesystems', in freezing order."""
        return [target.descriptor for target in self.targets]

    def start(self) -> None:
        """Fork the flusher, while nothing is held."""
        if self.targets:
            self._flusher = Flusher(self.targets)
            self._started.add(self._flusher.pid)
            self._journal.note("process", role="flusher", pid=self._flusher.pid)
            self._tell(f"pid {self._flusher.pid}", False)

    def close(self) -> None:
        """Leave the machine as it was, and let the flusher end."""
        self.grace.settle()
        if self._flusher is not None:
            self._flusher.close()
            self._started.end()  # stopped, it would not see that

    def beat(self) -> None:
        """End a flusher that was stopped: applications wait for its answer. Ten times a second."""
        if self._started.beat():
            self._started.end()

    def write_back(self) -> None:
        """One writeback of all, where nobody freezes; noted only if it was whole."""
        if self._presync(SYNC_SECONDS, rounds=1).complete:
            self._journal.note("synced")

    def freeze(self, announce: Callable[[], None]) -> dict[str, Any]:
        """Write back and freeze; facts of the answer.

        ``announce()`` is called before the first FIFREEZE, with the thaw's ``deadline`` set.
        """
        deadline = time.monotonic() + self._timeout
        # A steady writer gets no further rounds here: applications stand still for each.
        seconds = min(PRESYNC_SECONDS, self._timeout / 2)
        written = self._presync(seconds, PRESYNC_ROUNDS, least=PRESYNC_ROUNDS)
        if written.hung:
            reason = f"{', '.join(written.hung)}: the writeback (syncfs) did not end in the time allowed"
            return {"frozen": False, "reason": f"{reason}; nothing was frozen", "busy": False}
        self.deadline = deadline
        announce()
        try:
            self._freezer.prepare()
            with self.grace.expedited(self._expedited):
                self._freezer.freeze(min(deadline, time.monotonic() + FREEZE_SECONDS))
        except FreezeFailed as error:
            self.deadline = float("inf")
            return {"frozen": False, "reason": str(error), "busy": error.busy}
        return {"frozen": True}

    def thaw(self) -> dict[str, Any]:
        """Thaw what was frozen; ``stuck``: mount points that still are, or hang in FIFREEZE."""
        self._freezer.thaw(time.monotonic() + THAW_SECONDS)
        self.deadline = float("inf")
        return {"stuck": self._freezer.unthawed()}

    def unthawed(self) -> list[str]:
        """Mount points that are frozen, or may be any moment: their FIFREEZE has not come back."""
        return self._freezer.unthawed()

    def thaw_again(self, seconds: float) -> None:
        """Try once more; what hangs in FIFREEZE is undone by its own thread."""
        self._freezer.thaw(time.monotonic() + seconds, patience=0.0)

    def _presync(self, seconds: float, rounds: int, least: int = 1) -> Writeback:
        if self._flusher is None:
            return Writeback()
        return self._flusher.presync(seconds, self._journal.note, rounds, most_stale=1, least=least)

    def _expedited(self, on: bool) -> None:
        self._tell(f"expedited {int(on)}", True)
        self._journal.note("expedited", on=on)

    def _note(self, event: str, **facts: Any) -> None:
        if event in ("freezing", "thawed", "not_frozen"):
            number = next(i for i, t in enumerate(self.targets) if t.mount.path == facts["mount"])
            # One that we did not freeze may be frozen by somebody else: the watchdog leaves it alone.
            self._tell(f"{'freezing' if event == 'freezing' else 'thawed'} {number}", event != "thawed")
        self._journal.note(event, **facts)
