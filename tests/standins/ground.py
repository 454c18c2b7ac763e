"""A stand-in at work: its server, its client programs, and the policy that is tried on it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import ledger
from tests.integration.stage import Stage
from tests.standins.product import Link

RUN = Path(__file__).with_name("run.py")

USER = pwd.getpwuid(os.geteuid()).pw_name
"""Whoever runs the tests: clients run as nobody else."""


@dataclass(slots=True)
class Standin:
    """One server of a product and its clients, on a stage."""

    stage: Stage
    name: str
    process: subprocess.Popen[bytes]
    programs: dict[str, Path] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return str(self.stage.folder / f"{self.name}.socket")

    @property
    def notes(self) -> Path:
        return self.stage.folder / "notes"

    def ask(self, **request: Any) -> Any:
        """One request of the test's own."""
        link = Link(self.address)
        try:
            return link.ask(**request)
        finally:
            link.close()

    def look(self, name: str) -> Any:
        """A part of the server's state."""
        return self.ask(look=name)

    def put(self, name: str, value: Any) -> None:
        """Change a part of the server's state."""
        self.ask(set=name, to=value)

    def call(self, name: str) -> None:
        """What somebody else does to the server."""
        self.ask(call=name)

    def rig(self, pattern: str, **how: Any) -> None:
        """Answer the next statement that matches with ``answer``, or work on it for ``delay`` seconds."""
        self.ask(rig=pattern, **how)

    def said(self, pattern: str) -> int:
        """How many statements that match were carried out."""
        return sum(1 for statement in self.ask(log=True) if re.search(pattern, statement))

    def program(self, name: str) -> Path:
        """A client program, to be named in a policy."""
        if name not in self.programs:
            line = f'exec {sys.executable} -IS {RUN} client {name} {self.address} "$@"'
            self.programs[name] = self.stage.program(name, f"#!/bin/sh\n{line}\n")
        return self.programs[name]

    def written_between(self, begun: float, ended: float) -> int:
        """Records that reached the server's file in that time."""
        noted = ledger.Ledger.read(self.notes).entries
        return sum(1 for entry in noted if begun < entry.acknowledged < ended)

    def wait_for(self, name: str, value: Any, seconds: float) -> float:
        """Seconds until the server's state is that. AssertionError after ``seconds``."""
        begun = time.monotonic()
        while (found := self.look(name)) != value:
            assert time.monotonic() - begun < seconds, f"{name} is {found}: {self.stage.events()}"
            time.sleep(0.01)
        return time.monotonic() - begun

    def policy(
        self,
        text: str,
        *,
        seconds: float = 0.0,
        more: str = "",
        patience: int = 10,
        taken: bool | None = None,
    ) -> Path:
        """An operator's policy; ``text`` has its extends and its settings; ``patience`` in seconds.

        ``taken``: a snapshot is taken, or fails; None: it is a rehearsal.
        """
        snapshot = f'provider = "none"\nseconds = {seconds}'
        if taken is not None:
            script = f"sleep {seconds}; exit {int(not taken)}"
            snapshot = f'provider = "command"\nargv = ["sh", "-c", "{script}"]\nneeds_freeze = false'
        return self.stage.policy(
            f"""name = "database"
{more}
{text}
[timing]
quiesce = {patience}
retries = 0
hold = 20
release = {patience}
[freeze]
enabled = false
timeout = 10
[snapshot]
{snapshot}
"""
        )

    def report(self, policy: Path) -> tuple[int, dict[str, Any]]:
        """``app run`` to its end."""
        return self.stage.run(policy)

    def because(self, report: dict[str, Any]) -> str:
        """All reasons that the application was not held."""
        found: str = json.dumps(report["applications"][0]["because"])
        return found


@contextlib.contextmanager
def standin(stage: Stage, name: str) -> Iterator[Standin]:
    """A running server."""
    folder = stage.folder
    address = folder / f"{name}.socket"
    argv = [sys.executable, "-IS", RUN, "serve", name, address, folder / "data", folder / "notes"]
    process = subprocess.Popen(list(map(str, argv)), stdin=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 20
        while not address.exists() or not (folder / "notes").exists():
            assert process.poll() is None, "the stand-in has ended"
            assert time.monotonic() < give_up
            time.sleep(0.01)
        yield Standin(stage, name, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
