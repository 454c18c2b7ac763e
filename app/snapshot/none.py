"""``none``: no snapshot. The whole cycle is run, so that one sees what it does and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.plan import Level, Options
from app.snapshot import Context, Taken

OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "seconds": {
            "type": "number",
            "minimum": 0,
            "maximum": 1800,
            "description": "how long to stay held and frozen in place of a snapshot; 0 if absent",
        }
    },
}


class NoSnapshot:
    """Waits, and takes nothing."""

    needs_freeze = True
    freezes_itself = False
    takes_snapshot = False
    unfrozen_level = Level.CRASH

    def __init__(self, options: Options) -> None:
        self._seconds = float(options.get("seconds", 0))

    def prepare(self, context: Context) -> None:
        """Nothing can be wrong."""

    def take(self, context: Context) -> Taken:
        """Stay held for the time asked for, or until the hold breaks."""
        context.pause(self._seconds)
        return Taken("")

    def finish(self, context: Context, taken: Taken | None) -> Mapping[str, Any]:
        """Nothing was opened."""
        return {}


def provider(options: Options) -> NoSnapshot:
    """The provider for these options."""
    return NoSnapshot(options)
