"""Where a cycle is watched from outside: its policies, journal, processes and reports."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app import history, hold, journal
from app.paths import Paths, paths
from tests import ledger

Event = journal.Event


@dataclass(slots=True)
class Stage:
    """A private folder on tmpfs, out of reach of every freeze, in which ``app`` runs."""

    command: list[str]
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def prefix(self) -> Path:
        """STILLFRAME_PREFIX of everything that is started here."""
        return self.folder / "prefix"

    @property
    def paths(self) -> Paths:
        """The program's files under the prefix."""
        return paths({"STILLFRAME_PREFIX": str(self.prefix)})

    def policy(self, text: str, name: str = "policy") -> Path:
        """Write one policy; ``version = 1`` is put before it."""
        path = self.folder / f"{name}.toml"
        path.write_text(f"version = 1\n{text}\n", encoding="utf-8", errors="surrogateescape")
        path.chmod(0o600)
        return path

    def program(self, name: str, text: str) -> Path:
        """Write one executable script, owned by whoever runs the test."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def start(self, *arguments: str | Path) -> Cycle:
        """Start ``app`` in a process of its own."""
        self.prefix.mkdir(mode=0o755, exist_ok=True)
        output = self.folder / "output"
        with output.open("wb") as out, (self.folder / "errors").open("wb") as errors:
            process = subprocess.Popen(
                [*self.command, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                env={**os.environ, "STILLFRAME_PREFIX": str(self.prefix), **self.environ},
            )
        return Cycle(self, process)

    def app(self, *arguments: str | Path, seconds: float = 60) -> tuple[int, str, str]:
        """Run ``app`` to its end: exit status, stdout, stderr."""
        cycle = self.start(*arguments)
        status = cycle.wait(seconds)
        return status, cycle.output, cycle.errors

    def skip_unless_started_by(self, become: Sequence[str]) -> None:
        """Skip where ``become`` (a command prefix) may not start ``app``: it is below root's own folder."""
        done = subprocess.run([*become, *self.command, "--version"], capture_output=True, text=True, cwd="/")
        if done.returncode and "ermission denied" in done.stderr:
            pytest.skip(f"{self.command[0]}: only root may go there")

    def run(self, *policies: Path, seconds: float = 60) -> tuple[int, dict[str, Any]]:
        """``app run --json``: exit status and report."""
        status, output, errors = self.app("run", "--json", "--quiet", *policies, seconds=seconds)
        assert output, errors
        report: dict[str, Any] = json.loads(output)
        return status, report

    def events(self) -> list[Event]:
        """The journal as it stands now."""
        return journal.read(self.paths.journal)

    def reports(self) -> list[dict[str, Any]]:
        """Every report that is kept."""
        return [history.load(self.paths, number) for number in history.numbers(self.paths)]

    def is_locked(self) -> bool:
        """Whether a hold still has the lock."""
        return hold.is_locked(self.paths)

    def wait_until_free(self, seconds: float) -> float:
        """Seconds until no hold has the lock. Raises AssertionError after ``seconds``."""
        begun = time.monotonic()
        while self.is_locked():
            assert time.monotonic() - begun < seconds, f"the lock is still held: {self.events()}"
            time.sleep(0.005)
        return time.monotonic() - begun


@dataclass(slots=True)
class Cycle:
    """An ``app`` that was started."""

    stage: Stage
    process: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        """What it printed on stdout so far."""
        return (self.stage.folder / "output").read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        """What it printed on stderr so far."""
        return (self.stage.folder / "errors").read_text(encoding="utf-8")

    def wait(self, seconds: float = 60) -> int:
        """Its exit status."""
        return self.process.wait(seconds)

    def when(self, event: str, seconds: float = 20, skip: int = 0, **facts: Any) -> Event:
        """Wait for an event of that name with those facts in the journal, and return it.

        The first, or the one after ``skip`` others. Raises AssertionError when it does not come. Looks
        again every half millisecond.
        """
        give_up = time.monotonic() + seconds
        position, rest = 0, b""
        while True:
            with contextlib.suppress(FileNotFoundError), open(self.stage.paths.journal, "rb") as file:
                file.seek(position)
                data = file.read()
                position += len(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    found: Event = json.loads(line)
                    if found["event"] == event and all(found.get(k) == v for k, v in facts.items()):
                        if not skip:
                            return found
                        skip -= 1
            ended = self.process.poll()
            if time.monotonic() > give_up or (ended is not None and not self.stage.is_locked()):
                raise AssertionError(f"no {event!r} came (exit {ended}): {self.errors} {self.stage.events()}")
            time.sleep(0.0005)

    def pid(self, role: str) -> int:
        """Process number of ``holder``, ``watchdog``, ``keeper``, ``client`` (the session's) or ``app``."""
        if role == "app":
            return self.process.pid
        return int(self.when("process", role=role)["pid"])


@contextlib.contextmanager
def stage(command: list[str]) -> Iterator[Stage]:
    """A stage of its own; whatever was started on it and still holds is ended with it."""
    folder = Path(tempfile.mkdtemp(prefix="stillframe-", dir="/dev/shm"))
    folder.chmod(0o755)
    made = Stage(command, folder)
    try:
        yield made
    finally:
        for event in made.events() if made.is_locked() else ():
            if event["event"] == "process":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(event["pid"], signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def write_probe(mount: Path) -> Callable[[float], float]:
    """Begin to write a file on ``mount`` in another process; call the result to learn how long it took.

    It takes the seconds to wait at most, and raises AssertionError when the write has not ended by then.
    """
    begun = time.monotonic()
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'echo probe >"$1"', "sh", str(mount / "probe")], stdin=subprocess.DEVNULL
    )

    def took(seconds: float) -> float:
        try:
            status = process.wait(max(0.0, begun + seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{mount}: still frozen after {seconds} s") from None
        assert status == 0
        return time.monotonic() - begun

    return took


def first_commit_after(writer: ledger.Writer, moment: float, seconds: float) -> float:
    """When the first commit that ends after ``moment`` was acknowledged; AssertionError after ``seconds``."""
    give_up = time.monotonic() + seconds
    while True:
        later = [e.acknowledged for e in writer.ledger.entries if e.acknowledged > moment]
        if later:
            return later[0]
        assert time.monotonic() < give_up, f"no commit within {seconds} s"
        time.sleep(0.005)
