"""The forms of cycles: ``app run`` for several applications and providers, and the compiled scripts."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests import ledger, scratch
from tests.integration.stage import Cycle as Process
from tests.integration.stage import Stage
from tests.integration.test_kill import SQLITE
from tests.matrix.evidence import Commits
from tests.matrix.lane import Lane

SNAPSHOT = 0.25
"""Seconds for which everything is held in place of a snapshot."""

TIMING = "[timing]\nquiesce = 10\nretries = 0\nhold = {hold}\nrelease = 10\n"
FREEZE = "[freeze]\nmounts = {mounts}\ntimeout = 10\n"
NONE = '[snapshot]\nprovider = "none"\nseconds = {seconds}\n'
COMMAND = '[snapshot]\nprovider = "command"\nargv = ["sleep", "{seconds}"]\ndeadline = 5\n'
PAUSED = """
name = "shop"
extends = "example-custom"
after = {after}
{timing}
[settings]
control = "{control}"
os_user = "root"
{rest}
"""
POSTGRESQL = """
name = "base"
extends = "postgresql"
{timing}
[settings]
host = "{host}"
{rest}
"""

WRAPPER = '#!/bin/sh\nexec {app} "$@"\n'


class Running(Protocol):
    """A cycle that was started."""

    def over(self) -> bool:
        """Whether all that was started for it has ended."""

    def wait(self, seconds: float) -> bool:
        """Whether it ended within ``seconds``."""

    def gave_up(self) -> bool:
        """Whether it says that somebody else has frozen what it was to freeze."""

    def said_so(self) -> bool:
        """Whether any exit status or output says that the level ``application`` was reached."""

    def window(self) -> tuple[float, float] | None:
        """When the snapshot began and ended, if there was one."""

    def others(self) -> dict[str, int]:
        """Processes that live, by role, of which the journal does not tell."""

    def frozen(self) -> tuple[float, float] | None:
        """When volumes were frozen by somebody else, CLOCK_MONOTONIC seconds."""

    def complaints(self) -> list[str]:
        """What went wrong beside it."""

    def words(self) -> str:
        """What it printed, for who looks for a cause."""


@dataclass(slots=True)
class Run:
    """``app run`` that was started."""

    process: Process

    def over(self) -> bool:
        return self.process.process.poll() is not None

    def wait(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def gave_up(self) -> bool:
        return self.process.process.poll() == 5

    def said_so(self) -> bool:
        return self.process.process.poll() == 0 or '"achieved": "application"' in self.process.output

    def window(self) -> tuple[float, float] | None:
        times = {e["event"]: float(e["t"]) for e in self.process.stage.events()}
        if "snapshot_begin" in times and "snapshot_end" in times:
            return times["snapshot_begin"], times["snapshot_end"]
        return None

    def others(self) -> dict[str, int]:
        return {}

    def frozen(self) -> tuple[float, float] | None:
        return None

    def complaints(self) -> list[str]:
        return []

    def words(self) -> str:
        return f"exit {self.process.process.poll()}: {self.process.errors}"


@dataclass(slots=True)
class Pair:
    """The scripts and the extension around them: freeze, snapshot, thaw, whatever the pre-script said."""

    where: Stage
    volumes: Sequence[scratch.Volume]
    config: Path
    seconds: float
    pre: int | None = None
    post: int | None = None
    script: subprocess.Popen[bytes] | None = None
    freeze: tuple[float, float] | None = None
    wrong: list[str] = field(default_factory=list)
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._backup, daemon=True)
        self.thread.start()

    def _backup(self) -> None:
        self.pre = self._script("pre")
        begun = time.monotonic()
        done = []
        for volume in self.volumes:
            try:
                scratch.freeze(volume.mount)
                done.append(volume)
            except OSError as error:
                self.wrong.append(f"the extension cannot freeze {volume.kind}: {error}")
        time.sleep(self.seconds)
        ended = time.monotonic()
        self.wrong += [
            f"{v.kind}: the extension's freeze was gone" for v in done if not scratch.thaw(v.mount)
        ]
        self.freeze = begun, ended
        self.post = self._script("post")

    def _script(self, which: str) -> int:
        self.script = subprocess.Popen(
            ["sh", self.config / "stillframe" / f"{which}.sh"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "STILLFRAME_PREFIX": str(self.where.prefix)},
        )
        return self.script.wait()

    def over(self) -> bool:
        return not self.thread.is_alive()

    def wait(self, seconds: float) -> bool:
        self.thread.join(seconds)
        return self.over()

    def gave_up(self) -> bool:
        return False

    def said_so(self) -> bool:
        return self.pre == 0 and self.post == 0

    def window(self) -> tuple[float, float] | None:
        return self.freeze

    def others(self) -> dict[str, int]:
        return {"script": self.script.pid} if self.pre is None and self.script else {}

    def frozen(self) -> tuple[float, float] | None:
        return self.freeze

    def complaints(self) -> list[str]:
        return self.wrong

    def words(self) -> str:
        logs = [Path(self.where.paths.log, f"{which}.log") for which in ("pre", "post")]
        said = [log.read_text(errors="replace")[-2000:] for log in logs if log.exists()]
        return f"pre {self.pre}, post {self.post}: {said}"


@dataclass(frozen=True, slots=True)
class Form:
    """One form. ``writers`` maps the policy's applications to whoever must stand still meanwhile.

    ``refused``: what it is to freeze is frozen by somebody else already, so it can only give up.
    """

    name: str
    writers: dict[str, str]
    refused: bool = False

    @contextlib.contextmanager
    def ready(self, lane: Lane) -> Iterator[None]:
        """Further writers, for as long as cycles of this form are run."""
        if self.name != "postgresql":
            yield
            return
        assert lane.cluster is not None
        notes = lane.where.folder / "postgresql-notes"
        lane.cluster.query("DROP TABLE IF EXISTS ledger")
        with ledger.Writer("postgresql", "--pause", "0.002", lane.cluster.conninfo, notes=notes):
            lane.commits["postgresql"] = Commits(notes)
            yield

    def start(self, lane: Lane, seconds: float = SNAPSHOT) -> Running:
        """Start a cycle."""
        where = lane.where
        lane.where.prefix.mkdir(mode=0o755, exist_ok=True)
        if self.name == "pair":
            return Pair(where, lane.volumes, self._compiled(lane), seconds)
        return Run(where.start("run", "--json", "--quiet", *self._policies(lane, seconds)))

    def mounts(self, lane: Lane) -> list[Path]:
        """What is frozen in it, by us or by the extension."""
        if self.refused:
            return []
        if self.name == "sqlite":
            return [lane.ext4.mount]
        if self.name in ("pausable", "postgresql"):
            return [lane.xfs.mount]
        return [v.mount for v in lane.volumes]

    def _policies(self, lane: Lane, seconds: float, hold: int = 20) -> list[Path]:
        timing = TIMING.format(hold=hold)
        targets = [lane.foreign.mount] if self.refused else self.mounts(lane)
        mounts = FREEZE.format(mounts=json.dumps([str(m) for m in targets]))
        provider = COMMAND if self.name == "both" else NONE
        rest = "" if self.name == "pair" else mounts + provider.format(seconds=seconds)
        tag = f"{self.name}-{seconds}"
        sqlite = SQLITE.format(timing=timing, database=lane.database, rest=rest)
        after = [] if self.name == "pausable" else ["orders"]
        paused = PAUSED.format(after=after, timing=timing, control=lane.server.program, rest=rest)
        if self.name == "postgresql":
            assert lane.cluster is not None
            text = POSTGRESQL.format(timing=timing, host=lane.cluster.socket, rest=rest)
            return [lane.where.policy(text, f"base-{tag}")]
        policies = []
        if self.name != "pausable":
            policies.append(lane.where.policy(sqlite, f"orders-{tag}"))
        if self.name not in ("sqlite", "busy"):
            policies.append(lane.where.policy(paused, f"shop-{tag}"))
        return policies

    def _compiled(self, lane: Lane) -> Path:
        config = lane.where.folder / "azure"
        if not config.exists():
            lane.where.folder.chmod(0o700)
            binary = lane.where.program("app", WRAPPER.format(app=lane.where.command[0]))
            policies = self._policies(lane, 0, hold=70)
            status, _, errors = lane.where.app("compile", *policies, "--out", config, "--binary", binary)
            assert status == 0, errors
            lane.where.folder.chmod(0o755)
        return config


FORMS = (
    Form("sqlite", {"orders": "sqlite"}),
    Form("pausable", {"shop": "orders"}),
    Form("both", {"orders": "sqlite", "shop": "orders"}),
    Form("pair", {"orders": "sqlite", "shop": "orders"}),
    Form("postgresql", {}),
    Form("busy", {"orders": "sqlite"}, refused=True),
)
