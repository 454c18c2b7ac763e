"""One suite for every mechanism: the contract that ``app.mechanisms.Connection`` states.

A mechanism without a stage (``mechanism_stages``) fails the suite.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from app import mechanisms
from app.errors import HostUnfit
from app.mechanisms import Abandoned, ConnectionLost, StepFailed, TimedOut
from app.plan import Step
from tests.conformance.mechanism_stages import STAGES, UNLIKE, Opened, Stage, soon

pytestmark = pytest.mark.integration


@pytest.fixture(params=mechanisms.names())
def name(request: pytest.FixtureRequest) -> str:
    """Every mechanism there is."""
    return str(request.param)


@pytest.fixture
def stage(name: str, tmp_path: Path) -> Iterator[Stage]:
    """Where this mechanism works."""
    assert name in STAGES, f"mechanism {name} has no stage: add one, so that its contract is held"
    with contextlib.ExitStack() as stack:
        yield STAGES[name](tmp_path, stack)


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
    options = {
        **STAGES["session"](tmp_path, contextlib.ExitStack()).options,
        "ended": "^(Error|Could not connect): ",
    }
    over = Step("session", {"send": f".shell echo 'Could not connect: gone'; sleep {UNLIKE}"})
    opened = Opened("session", options, [over])
    begun = time.monotonic()
    with pytest.raises(ConnectionLost, match="says: Could not connect: gone"):
        opened.connection.perform(over, soon())
    opened.connection.kill()
    assert time.monotonic() - begun < 2
    assert not _any_running(f"sleep {UNLIKE}")


def test_a_statement_has_errors_of_its_own(tmp_path: Path) -> None:
    """What one statement may answer is an error of every other, and the session goes on."""
    stage = STAGES["session"](tmp_path, contextlib.ExitStack())
    missing = "SELECT * FROM missing;"
    allowed = Step("session", {"send": missing, "failed": "rror(?!.*no such table)"})
    others = [Step("session", {**allowed.do, "send": "SELECT * FROM;"}), Step("session", {"send": missing})]
    opened = Opened("session", stage.options, [allowed, *others])
    assert "no such table" in opened.connection.perform(allowed, soon())
    for other in others:
        with pytest.raises(StepFailed):
            opened.connection.perform(other, soon())
    opened.connection.close(soon())


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


def test_stdin_of_every_command_that_has_none_of_its_own() -> None:
    own = Step("command", {"argv": ["cat"], "stdin": "own"})
    other = Step("command", {"argv": ["cat"]})
    unread = Step("command", {"argv": ["true"]})
    connection = Opened("command", {"stdin": "x" * 100_000}, [own, other, unread]).connection
    assert connection.perform(own, soon()) == "own"
    assert connection.perform(other, soon()) == "x" * 100_000
    assert connection.perform(unread, soon()) == ""


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
    """Whether such a process is there half a second later: one that was killed needs a moment to be gone."""
    give_up = time.monotonic() + 0.5
    while found := command.encode() in _running():
        if time.monotonic() > give_up:
            break
        time.sleep(0.01)
    return found


def _running() -> Iterator[bytes]:
    """The command lines of all processes."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield (entry / "cmdline").read_bytes().replace(b"\0", b" ").strip()
