"""Where every mechanism is at work, for the suite that holds them all to one contract.

A new mechanism needs an entry in ``STAGES``. The other side is real: the ``sqlite3`` shell for ``session``,
programs of the system for ``command``, a systemd of our own for ``service``, Python's HTTP server for
``http``, the kernel for ``cgroup``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app import mechanisms
from app.mechanisms import Connection, Waiter
from app.plan import Step
from tests import groups, scratch, systemds, web

UNLIKE = 1000 + os.getpid()
"""Seconds of a sleep that is ours: another run of these tests may share this kernel."""


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


class Opened:
    """A connection and the processes that it registered."""

    def __init__(
        self, name: str, options: dict[str, Any], steps: list[Step], asker: int | None = None
    ) -> None:
        self.pids: list[int] = []
        module = mechanisms.load(name)
        self.connection: Connection = module.connect(options, steps, Waiter(asker), self.pids.append, soon())

    def alive(self) -> list[int]:
        return [pid for pid in self.pids if Path(f"/proc/{pid}").exists()]


@dataclass(slots=True)
class Stage:
    """One mechanism at work: a step that succeeds, one that fails, one that takes too long."""

    options: dict[str, Any]
    good: dict[str, Any]
    answer: str
    bad: dict[str, Any]
    slow: dict[str, Any]
    unfit: dict[str, Any]
    ways_in: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    end: Callable[[Opened], None] | None = None
    """Ends the other side; absent: the first process that was registered is killed."""


Make = Callable[[Path, contextlib.ExitStack], Stage]
"""Makes a stage in a folder; what it starts is ended with the stack. It may skip, with the reason."""


def database(tmp_path: Path) -> Path:
    path = tmp_path / "a 'b' \"c\".db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    return path


def _session(tmp_path: Path, stack: contextlib.ExitStack) -> Stage:
    options = {
        "argv": ["sqlite3", "-batch", str(database(tmp_path))],
        "mark": ".print {mark}",
        "failed": "^(Parse|Runtime) error|^Error",
        "identity": "SELECT 'the one session';",
        "version": "SELECT 3000000;",
        "begin": [".timeout 10000"],
        "quit": ".quit",
    }
    return Stage(
        options,
        {"send": "SELECT 'two' || char(10) || 'lines';"},
        "two\nlines",
        {"send": "SELECT * FROM nowhere;"},
        {"send": f".shell sleep {UNLIKE}"},
        {**options, "argv": ["no-such-client"]},
    )


def _command(tmp_path: Path, stack: contextlib.ExitStack) -> Stage:
    return Stage(
        {},
        {"argv": ["printf", "%s|%s", "$(id); '\"", "é"]},
        "$(id); '\"|é",
        {"argv": ["sh", "-c", "echo no; exit 3"]},
        {"argv": ["sh", "-c", f"sleep {UNLIKE} & wait"]},
        {},
    )


def _sqlite(tmp_path: Path, stack: contextlib.ExitStack) -> Stage:
    path = database(tmp_path)

    @contextlib.contextmanager
    def locked() -> Any:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield

    return Stage(
        {"databases": [str(path)]},
        {"action": "checkpoint"},
        f"{path}: no write-ahead log",
        {"action": "release"},
        {"action": "lock"},
        {"databases": [str(tmp_path / "missing.db")]},
        locked,
    )


def _service(tmp_path: Path, stack: contextlib.ExitStack) -> Stage:
    try:
        manager = stack.enter_context(systemds.systemd())
    except systemds.Unavailable as error:
        pytest.skip(str(error))
    stubborn = "/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'"
    manager.write({"orders.service": f"[Service]\nExecStart={stubborn}\nTimeoutStopSec=60\n"})
    manager.ctl("start", "orders")
    time.sleep(0.2)  # until the shell has set its trap
    noted = f"orders.service active {manager.show('orders', 'InvocationID')}"
    options = {"units": ["orders"], "user": "root", "environment": manager.environment}
    return Stage(
        options,
        {"action": "note"},
        noted,
        {"action": "verify"},
        {"action": "stop", "was": noted},
        {**options, "units": ["no-such.service"]},
    )


def _http(tmp_path: Path, stack: contextlib.ExitStack) -> Stage:
    server = stack.enter_context(web.web())
    server.says("/good", "two\nlines\n")
    server.says("/bad", "no", status=503)
    server.hangs("/slow")
    return Stage(
        {"url": server.url, "headers": {"X-Of-All": "1"}},
        {"path": "/good"},
        "two\nlines",
        {"method": "POST", "path": "/bad", "body": "x"},
        {"path": "/slow"},
        {"url": "nowhere"},
        end=lambda opened: server.stop(),
    )


def _cgroup(tmp_path: Path, stack: contextlib.ExitStack) -> Stage:
    version = 2 if not groups.missing(2) else 1
    if lacking := groups.missing(version):
        pytest.skip(lacking)
    group = stack.enter_context(groups.group(version, tmp_path / "count"))

    @contextlib.contextmanager
    def stuck() -> Any:
        """A process that waits in the kernel, for a frozen filesystem here, cannot be frozen itself."""
        with scratch.filesystem("ext4", 64) as volume:
            scratch.freeze(volume.mount)
            writer = subprocess.Popen(["touch", str(volume.mount / "file")], stdin=subprocess.DEVNULL)
            try:
                (group.folder / "cgroup.procs").write_text(str(writer.pid))
                give_up = time.monotonic() + 5
                while Path(f"/proc/{writer.pid}/stat").read_text().split()[2] != "D":
                    assert time.monotonic() < give_up
                yield
            finally:
                group.freeze(frozen=False)
                scratch.thaw(volume.mount)
                writer.wait()

    noted = f"{group.name} thawed"
    return Stage(
        {"groups": [f"/{group.name}"]},
        {"action": "note"},
        noted,
        {"action": "verify"},
        {"action": "freeze", "was": noted},
        {"groups": ["no-such-group"]},
        stuck,
    )


STAGES: dict[str, Make] = {
    "cgroup": _cgroup,
    "http": _http,
    "session": _session,
    "command": _command,
    "service": _service,
    "sqlite": _sqlite,
}
