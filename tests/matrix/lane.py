"""What blows are struck on: volumes with writers on them, used for one cycle after the other."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests import ledger, postgres, scratch
from tests.integration.stage import Stage, stage
from tests.integration.test_cycle_outliving import Server, serve
from tests.matrix.evidence import Commits, Pulse, pulsing

PACE = "0.002"
"""Seconds between two commits of the SQLite writer: it writes for minutes on end."""


@dataclass(slots=True)
class Lane:
    """A stage, its volumes, and who writes to them. ``foreign`` is frozen by somebody else, the test."""

    where: Stage
    ext4: scratch.Volume
    xfs: scratch.Volume
    foreign: scratch.Volume
    database: Path
    server: Server
    cluster: postgres.Postgres | None
    pulses: dict[Path, Pulse]
    commits: dict[str, Commits] = field(default_factory=dict)

    @property
    def volumes(self) -> tuple[scratch.Volume, scratch.Volume]:
        """Those that are frozen by us, or by the extension."""
        return self.ext4, self.xfs

    def forget(self) -> None:
        """Drop what was noted so far, and the journal."""
        for pulse in self.pulses.values():
            pulse.forget()
        for commits in self.commits.values():
            commits.forget()
        Path(self.where.paths.journal).unlink(missing_ok=True)

    def thaw(self) -> list[str]:
        """Thaw whatever the test may have left frozen; what was."""
        return [v.kind for v in (*self.volumes, self.foreign) if scratch.thaw(v.mount)]

    def mend(self) -> None:
        """After a failure: end all that the journal names, so that the next blow finds its ground."""
        for event in self.where.events():
            if event["event"] in ("process", "begin"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(event["pid"]), signal.SIGKILL)
        self.thaw()


@contextlib.contextmanager
def lane(command: list[str], *, with_postgres: bool) -> Iterator[Lane]:
    """A lane of its own: it needs root, and any number run side by side."""
    with contextlib.ExitStack() as stack:
        ext4 = stack.enter_context(scratch.filesystem("ext4", 768))
        xfs = stack.enter_context(scratch.filesystem("xfs", 1024))
        foreign = stack.enter_context(scratch.filesystem("ext4", 32))
        where = stack.enter_context(stage(command))
        where.folder.chmod(0o755)
        server = stack.enter_context(serve(where, xfs.mount / "orders"))
        database = ext4.mount / "orders.db"
        notes = where.folder / "sqlite-notes"
        stack.enter_context(ledger.Writer("sqlite", "--pause", PACE, str(database), notes=notes))
        cluster = stack.enter_context(postgres.server(xfs.mount / "pg")) if with_postgres else None
        pulses = {v.mount: stack.enter_context(pulsing(v.mount, where.folder)) for v in (ext4, xfs)}
        made = Lane(where, ext4, xfs, foreign, database, server, cluster, pulses)
        made.commits = {"sqlite": Commits(notes), "orders": Commits(server.notes)}
        stack.callback(made.thaw)
        yield made
