"""One suite for every mechanism: the contract that ``app.mechanisms.Connection`` states.

A new mechanism needs an entry in ``STAGES``; without one the suite fails. The other side is real: the
``sqlite3`` shell for ``session``, programs of the system for ``command``, a systemd of our own for
``service``, Python's HTTP server for ``http``, the kernel for ``cgroup``.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from app import mechanisms
from app.errors import HostUnfit
from app.mechanisms import Abandoned, Connection, ConnectionLost, StepFailed, TimedOut, Waiter
from app.plan import Step
from tests import groups, scratch, systemds, web

pytestmark = pytest.mark.integration

UNLIKE = 1000 + os.getpid()
"""Seconds of a sleep that is ours: another run of these tests may share this kernel."""


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


def _database(tmp_path: Path) -> Path:
    path = tmp_path / "a 'b' \"c\".db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    return path


def _session(tmp_path: Path, stack: contextlib.ExitStack) -> Stage:
    options = {
        "argv": ["sqlite3", "-batch", str(_database(tmp_path))],
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
    path = _database(tmp_path)

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


@pytest.fixture(params=mechanisms.names())
def name(request: pytest.FixtureRequest) -> str:
    """Every mechanism there is."""
    return str(request.param)


@pytest.fixture
def stage(name: str, tmp_path: Path) -> Iterator[Stage]:
    """Where this mechanism works."""
    assert name in STAGES, f"mechanism {name} has no stage here: add one, so that its contract is held"
    with contextlib.ExitStack() as stack:
        yield STAGES[name](tmp_path, stack)


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


def children() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def test_schemas_describe_every_key(name: str, stage: Stage) -> None:
    module = mechanisms.load(name)
    for schema, sample in ((module.OPTIONS_SCHEMA, stage.options), (module.STEP_SCHEMA, stage.good)):
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(sample, schema)
        assert all(entry.get("description") for entry in schema["properties"].values())


def test_a_step_gives_its_answer_and_a_bad_one_fails(name: str, stage: Stage) -> None:
    good, bad = Step(name, stage.good), Step(name, stage.bad)
    opened = Opened(name, stage.options, [good, bad])
    assert opened.connection.perform(good, soon()) == stage.answer
    with pytest.raises(StepFailed):
        opened.connection.perform(bad, soon())
    opened.connection.prove(soon())
    assert opened.connection.perform(good, soon()) == stage.answer, (
        "an error is no reason to lose the session"
    )
    opened.connection.close(soon())
    assert opened.alive() == []


def test_a_slow_step_ends_at_its_deadline_and_leaves_no_process(name: str, stage: Stage) -> None:
    slow = Step(name, stage.slow)
    before = children()
    opened = Opened(name, stage.options, [slow])
    begun = time.monotonic()
    with stage.ways_in(), pytest.raises(StepFailed) as caught:
        opened.connection.perform(slow, soon(0.4))
    assert isinstance(caught.value, TimedOut) or "locked" in str(caught.value)
    opened.connection.kill()
    assert time.monotonic() - begun < 2
    assert opened.alive() == []
    assert children() == before
    assert not _any_running(f"sleep {UNLIKE}")


def test_a_step_ends_when_the_asker_gives_up(name: str, stage: Stage) -> None:
    slow = Step(name, stage.slow)
    read, write = os.pipe()
    opened = Opened(name, stage.options, [slow], read)
    threading.Timer(0.3, os.write, (write, b".")).start()
    begun = time.monotonic()
    with stage.ways_in(), pytest.raises(Abandoned):
        opened.connection.perform(slow, soon(20))
    opened.connection.kill()
    assert time.monotonic() - begun < 2
    assert opened.alive() == []
    assert not _any_running(f"sleep {UNLIKE}")
    os.close(read)
    os.close(write)


def test_the_end_of_the_other_side_is_seen(name: str, stage: Stage) -> None:
    good = Step(name, stage.good)
    opened = Opened(name, stage.options, [good])
    lost = opened.connection.lost()
    if lost is None:
        assert opened.alive() == [], "what keeps a process open can be lost"
        pytest.skip(f"{name} keeps nothing open")
    poll = select.poll()
    poll.register(lost, select.POLLIN)
    assert poll.poll(0) == [], "silent while all is well"
    if stage.end:
        stage.end(opened)
    else:
        os.kill(opened.pids[0], signal.SIGKILL)
    assert poll.poll(2000)
    with pytest.raises(ConnectionLost):
        opened.connection.prove(soon())
    with pytest.raises(ConnectionLost):
        opened.connection.perform(good, soon())
    opened.connection.close(soon())
    assert opened.alive() == []


def test_unfit_is_found_when_connecting(name: str, stage: Stage) -> None:
    before = children()
    step = Step(name, {"argv": ["no-such-program"]} if name == "command" else stage.good)
    with pytest.raises(HostUnfit):
        Opened(name, stage.unfit, [step])
    assert children() == before


def test_close_twice_and_kill_after_close(name: str, stage: Stage) -> None:
    opened = Opened(name, stage.options, [Step(name, stage.good)])
    opened.connection.close(soon())
    opened.connection.close(soon())
    opened.connection.kill()
    assert opened.alive() == []


# -- what is special to one of them -----------------------------------------------------------------


def test_programs_get_the_machine_s_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/bundle")
    monkeypatch.setenv("SECRET", "x")
    step = Step("command", {"argv": ["env"], "environment": {"OWN": "1"}})
    names = {
        line.partition("=")[0]
        for line in Opened("command", {}, [step]).connection.perform(step, soon()).split("\n")
    }
    assert {"PATH", "LANG", "HOME", "USER", "LOGNAME", "OWN"} == names - {"_", "PWD", "SHLVL"}


def test_a_client_that_says_that_its_session_is_over_is_believed(tmp_path: Path) -> None:
    options = {**_session(tmp_path, contextlib.ExitStack()).options, "ended": "^(Error|Could not connect): "}
    over = Step("session", {"send": f".shell echo 'Could not connect: gone'; sleep {UNLIKE}"})
    opened = Opened("session", options, [over])
    begun = time.monotonic()
    with pytest.raises(ConnectionLost, match="says: Could not connect: gone"):
        opened.connection.perform(over, soon())
    opened.connection.kill()
    assert time.monotonic() - begun < 2
    assert not _any_running(f"sleep {UNLIKE}")


def test_a_process_left_behind_does_not_hold_us_up() -> None:
    step = Step("command", {"argv": ["sh", "-c", f"sleep {UNLIKE} & echo done"]})
    begun = time.monotonic()
    assert Opened("command", {}, [step]).connection.perform(step, soon()) == "done"
    assert time.monotonic() - begun < 2
    assert not _any_running(f"sleep {UNLIKE}")


def test_much_output_is_read_and_bounded() -> None:
    step = Step("command", {"argv": ["head", "-c", "3000000", "/dev/zero"]})
    assert len(Opened("command", {}, [step]).connection.perform(step, soon())) == 1 << 20


def test_stdin_and_exit_statuses() -> None:
    step = Step("command", {"argv": ["sh", "-c", "cat; exit 5"], "stdin": "in\n", "exit": [0, 5]})
    assert Opened("command", {}, [step]).connection.perform(step, soon()) == "in"


@pytest.mark.root
def test_root_runs_no_program_that_others_can_write(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho mine\n")
    program.chmod(0o755)
    step = Step("command", {"argv": [str(program)]})
    assert Opened("command", {}, [step]).connection.perform(step, soon()) == "mine"
    program.chmod(0o775)
    with pytest.raises(HostUnfit, match="writ"):
        Opened("command", {}, [step])


@pytest.mark.root
def test_sqlite_is_opened_as_the_owner(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / "a.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE t (x)")
    for each in (*tmp_path.parents, tmp_path):
        if str(each).startswith("/tmp/"):
            each.chmod(0o755)
    os.chown(folder, 65534, 65534)
    os.chown(path, 65534, 65534)
    lock = Step("sqlite", {"action": "lock"})
    opened = Opened("sqlite", {"databases": [str(path)]}, [lock])
    opened.connection.perform(lock, soon())
    assert {(each.name, each.stat().st_uid) for each in folder.iterdir()} == {
        ("a.db", 65534),
        ("a.db-wal", 65534),
        ("a.db-shm", 65534),
    }
    status = Path(f"/proc/{opened.pids[0]}/status").read_text()
    assert "Uid:\t65534\t65534\t65534\t65534" in status
    opened.connection.kill()


def _any_running(command: str) -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes().replace(b"\0", b" ").strip() == command.encode():
                    return True
    return False
