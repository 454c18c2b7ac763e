"""``command``: a program of the operator's own takes the snapshot, during the hold.

Its output is kept in memory and goes into the report. It must write to no frozen filesystem.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.errors import SnapshotFailed, StillframeError
from app.host.process import Program
from app.mechanisms import Abandoned, StepFailed
from app.mechanisms.command import run
from app.plan import Level, Options
from app.snapshot import Context, Taken
from app.template import fill

OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["argv"],
    "properties": {
        "argv": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "description": "program and arguments; {name} is the snapshot's name, {mounts} the frozen mount "
            "points (alone: one argument each), {deadline} the whole seconds left; no shell is involved",
        },
        "user": {"type": "string", "description": "OS user as whom it runs; absent: root"},
        "deadline": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1800,
            "description": "seconds it may take; 30 if absent",
        },
        "needs_freeze": {
            "type": "boolean",
            "description": "false if it reads files through the filesystem, so that nothing must be frozen",
        },
    },
}


class CommandSnapshot:
    """Runs the program once; exit status 0 means that the snapshot was taken."""

    freezes_itself = False
    takes_snapshot = True

    def __init__(self, options: Options) -> None:
        self._options = options
        self._seconds = float(options.get("deadline", 30))
        self.needs_freeze = bool(options.get("needs_freeze", True))
        self.unfrozen_level = Level.CRASH if self.needs_freeze else Level.FILESYSTEM
        self._program: Program | None = None

    def prepare(self, context: Context) -> None:
        """Find and check the program."""
        self._program = Program(self._argv(context), self._options.get("user", ""), {})

    def take(self, context: Context) -> Taken:
        """Run it."""
        assert self._program is not None
        try:
            output, status = run(
                self._program,
                "",
                context.waiter,
                context.register,
                context.until(self._seconds),
            )
        except Abandoned:
            raise SnapshotFailed("the hold was lost while the program ran; it was ended") from None
        except (StepFailed, StillframeError) as error:
            raise SnapshotFailed(str(error)) from error
        if status != 0:
            raise SnapshotFailed(
                f"{self._program.argv[0]} ended with status {status}: {output.strip()[-500:]}"
            )
        return Taken(context.name, {"output": output[-4096:]})

    def finish(self, context: Context, taken: Taken | None) -> Mapping[str, Any]:
        """Close the program."""
        if self._program is not None:
            self._program.close()
        return {}

    def _argv(self, context: Context) -> tuple[str, ...]:
        values = {
            "name": context.name,
            "mounts": " ".join(context.mounts),
            "deadline": str(int(self._seconds)),
        }
        argv: list[str] = []
        for argument in self._options["argv"]:
            argv += context.mounts if argument == "{mounts}" else [fill(argument, values)]
        return tuple(argv)


def provider(options: Options) -> CommandSnapshot:
    """The provider for these options."""
    return CommandSnapshot(options)
