"""A blow to one process of a hold, at an instant that its journal tells, and what must be true after it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests import scratch
from tests.integration.stage import Cycle, Event, Stage

LIMIT = 2.0
"""Seconds: law 1."""

INSTANTS: dict[str, dict[str, Any]] = {
    "begun": {"event": "begin"},
    "holder-started": {"event": "process", "role": "holder"},
    "watchdog-started": {"event": "process", "role": "watchdog"},
    "keeper-started": {"event": "process", "role": "keeper"},
    "session-started": {"event": "process", "role": "client"},
    "connected": {"event": "connected"},
    "quiescing": {"event": "quiescing"},
    "half-quiesced": {"event": "step", "phase": "quiesce"},
    "quiesced": {"event": "quiesced"},
    "presync": {"event": "presync"},
    "freezing": {"event": "freezing"},
    "frozen": {"event": "frozen"},
    "snapshot": {"event": "snapshot_begin"},
    "mid-hold": {"event": "snapshot_begin"},
    "snapshot-taken": {"event": "snapshot_end"},
    "thawed": {"event": "thawed"},
    "verified": {"event": "verified"},
    "releasing": {"event": "releasing"},
}
"""What the journal says first at each instant; ``mid-hold`` is a while after it."""


def strike(cycle: Cycle, who: str, instant: str, number: signal.Signals = signal.SIGKILL) -> float:
    """Send the signal at that instant; CLOCK_MONOTONIC seconds at which it was sent."""
    victim = None if instant == "begun" else cycle.pid(who)
    cycle.when(**INSTANTS[instant])
    if instant == "mid-hold":
        time.sleep(0.15)
    struck = time.monotonic()
    os.kill(cycle.pid(who) if victim is None else victim, number)
    return struck


def last_hold(events: Sequence[Event], struck: float) -> float:
    """From when on a commit proves the release: the blow, or whatever was still held after it."""
    return max([struck, *(float(e["t"]) for e in events if e["event"] in ("quiesced", "freezing", "frozen"))])


def thaw_is_refused(mount: Path) -> bool:
    """Whether FITHAW says EINVAL: nothing is frozen."""
    descriptor = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, scratch.FITHAW, 0)
    except OSError as error:
        return error.errno == errno.EINVAL
    finally:
        os.close(descriptor)
    return False


def check_claims(
    here: Stage, cycle: Cycle, status: int, who: str, number: signal.Signals = signal.SIGKILL
) -> None:
    """Nothing says that the level was reached: no report, no exit status, no output."""
    for report in here.reports():
        assert report["achieved"] != "application", report
        assert report["exit"] != 0
        assert not report["stuck"], report
    if who != "app":
        assert status not in (0, 7), cycle.errors
        assert '"achieved": "application"' not in cycle.output
    else:
        assert status == -number


def cases(table: Mapping[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """Every victim with each of its instants."""
    return [(who, instant) for who, instants in table.items() for instant in instants]
