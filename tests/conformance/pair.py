"""A compiled pair under the re-created script host: one stage with a database that it holds."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import FRAMEWORK_ERRORS
from tests.conformance.script_host import Result, ScriptHost

SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}
Run = Callable[..., "subprocess.CompletedProcess[str]"]

SHOP = """
version = 1
name = "shop"
extends = "sqlite"
settings = { databases = ["DATABASE"] }
timing = { quiesce = 3, retries = 0, hold = 70, release = 3 }
"""

OWN = """
version = 1
name = "own"
summary = "an application by TOML alone"
proven = "stand-in"
level = "application"
timing = {{ quiesce = 5, retries = 0, hold = 70, release = 5 }}
[command]
[[quiesce]]
mechanism = "command"
argv = {quiesce}
[[release]]
mechanism = "command"
argv = {release}
proof = true
[[recover]]
mechanism = "command"
argv = ["/bin/true"]
"""


def _lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        state = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def needs(shell: str) -> list[str]:
    if shutil.which(SHELLS[shell][0]) is None:
        pytest.skip(f"needs {SHELLS[shell][0]}")
    return SHELLS[shell]


class Stage:
    """A database, its policy compiled to a folder, and the host that runs the pair."""

    def __init__(self, folder: Path, prefix: Path, run_app: Run, app_command: list[str]) -> None:
        self.folder = folder
        self.prefix = prefix
        self.azure = folder / "azure"
        self.database = folder / "shop.db"
        self.run_app = run_app
        self.app_command = app_command
        with self.connect() as connection:
            connection.execute("CREATE TABLE sale (number INTEGER)")
        connection.close()

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.database, timeout=0, isolation_level=None)

    def compile(self, text: str = SHOP, **extra: Any) -> None:
        """Write and compile a policy; ``extra``: the lines of further tables."""
        # Long, as the host's clocks are shortened and the applications' are not.
        extra = {"framework": "", **extra}
        if "timeout_seconds" not in extra["framework"]:
            extra["framework"] += "\ntimeout_seconds = 600"
        policy = self.folder / "policy.toml"
        more = "".join(f"\n[{table}]\n{lines}\n" for table, lines in extra.items())
        policy.write_text(text.replace("DATABASE", str(self.database)) + more)
        binary = self.app_command[0]
        done = self.run_app("compile", policy, "--out", self.azure, "--binary", binary)
        assert done.returncode == 0, done.stderr

    def is_held(self) -> bool:
        with contextlib.closing(self.connect()) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                return True
        return False

    def is_free_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.is_held():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def processes(self) -> dict[str, int]:
        """The live processes of the hold by their roles, from the journal."""
        found: dict[str, int] = {}
        journal = self.prefix / "run/stillframe/journal"
        for line in journal.read_text().splitlines() if journal.exists() else []:
            event = json.loads(line)
            if event.get("event") == "process" and _lives(event["pid"]):
                found[event["role"]] = event["pid"]
        return found

    def report(self) -> dict[str, Any]:
        done = self.run_app("report", "--json")
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def log(self, which: str) -> str:
        path = self.prefix / f"var/log/stillframe/{which}.log"
        return path.read_text() if path.exists() else ""

    def host(self, shell: list[str], **options: Any) -> ScriptHost:
        settings: dict[str, Any] = {
            "scale": 0.1,
            "owner": os.geteuid(),
            "freeze": lambda seconds: contextlib.nullcontext(),
        }
        return ScriptHost(self.azure, shell, **{**settings, **options})

    def backup(self, shell: list[str] | None = None, **options: Any) -> Result:
        with self.host(shell or ["sh"], **options) as host:
            result = host.backup()
            for run in (result.pre, result.post):
                if run is not None and not run.timed_out:
                    assert not run.pipes_held()
                    assert run.output == b""
            return result


def reported(result: Result) -> str:
    assert result.error is not None
    assert result.code in FRAMEWORK_ERRORS[result.error].codes
    return result.error


def found_by_verify(stage: Stage) -> str:
    """What ``app verify`` says comes first, by the framework's own name."""
    done = stage.run_app("verify", "--out", stage.azure, "--json")
    assert done.returncode == 4
    return str(json.loads(done.stdout)["findings"][0]["framework_error"])
