"""The times of a policy, and what its steps may know of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from app.plan import Timing
from app.policy import Policy

DEFAULTS: Mapping[str, float | int] = {"quiesce": 30, "retries": 2, "hold": 60, "release": 30}
"""Seconds, and further attempts. Room in the framework's 1800 s and the extension's 60 s freeze."""


def timing_of(policy: Policy) -> Timing:
    """The times in force."""
    values = {**DEFAULTS, **policy.data.get("timing", {})}
    return Timing(
        quiesce=float(values["quiesce"]),
        retries=int(values["retries"]),
        hold=float(values["hold"]),
        release=float(values["release"]),
    )


def placeholders(policy: Policy) -> dict[str, int]:
    """What ``{name}`` may stand for in a policy besides its settings.

    ``deadman_seconds`` and ``deadman_milliseconds``: a time that no hold outlives, for servers that have
    a dead-man timer of their own: one attempt, the hold and the release together.
    """
    timing = timing_of(policy)
    seconds = timing.quiesce + timing.hold + timing.release
    return {"deadman_seconds": math.ceil(seconds), "deadman_milliseconds": round(seconds * 1000)}
