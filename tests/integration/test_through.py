"""Programs behind another one: in a real container of podman's, whose engine lets a program run on.

A PostgreSQL server and its client run in the container, ``app`` outside. Whoever is killed: within two
seconds nothing of ours is left in there, and what it quiesced is released.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.host import through
from app.mechanisms import StepFailed, TimedOut, Waiter, command, session
from app.plan import Step
from tests import containers, postgres
from tests.containers import Container
from tests.integration.stage import Cycle, Stage, stage

pytestmark = [pytest.mark.integration, pytest.mark.root]

UNLIKE = str(2000 + os.getpid())
"""Seconds of a sleep that is ours."""


@pytest.fixture(scope="module")
def box() -> Iterator[Container]:
    """A container with a PostgreSQL server in it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if lacking := containers.missing():
        pytest.skip(f"needs {lacking}")
    programs = postgres.programs()
    if programs is None:
        pytest.skip("needs a PostgreSQL server")
    with tempfile.TemporaryDirectory(prefix="stillframe-pod-", dir="/dev/shm") as folder:
        data = Path(folder, "data")
        data.mkdir(mode=0o700)
        shutil.chown(data, "postgres", "postgres")
        initdb = f"{programs}/initdb -D /data --auth=trust --username=postgres --encoding=UTF8 --no-sync"
        serve = f"{programs}/postgres -D /data -c listen_addresses= -c unix_socket_directories=/tmp"
        argv = ["sh", "-c", f"{initdb} >/tmp/initdb 2>&1 && exec {serve} >/tmp/log 2>&1"]
        name = f"orders-{os.getpid()}"
        with containers.container(name, argv, [f"{data}:/data"], user="postgres") as made:
            give_up = time.monotonic() + 60
            while "1" not in (said := _ask(made, "SELECT 1")):
                assert time.monotonic() < give_up, said
                time.sleep(0.1)
            yield made


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def _ask(box: Container, statement: str) -> str:
    """The answer of a session of our own in the container."""
    try:
        return box.run(str(psql()), "-XqAt", "-h", "/tmp", "-c", statement, user="postgres").strip()
    except subprocess.CalledProcessError as error:
        return str(error.stderr)


def psql() -> Path:
    programs = postgres.programs()
    assert programs is not None
    return programs / "psql"


def _client(cycle: Cycle) -> int:
    """What stands before psql; others were started to see that it can be."""
    pids = [event["pid"] for event in cycle.stage.events() if event.get("role") == "client"]
    commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in pids}
    return int(next(p for p, path in commands.items() if path.exists() and b"psql" in path.read_bytes()))


def policy(here: Stage, box: Container, quiesce: str = "", seconds: float = 0) -> Path:
    """The shipped policy, with what an operator adds for a container."""
    return here.policy(
        f"""
        name = "orders"
        extends = "postgresql"
        {quiesce}
        [settings]
        host = "/tmp"
        psql = "{psql()}"
        [session]
        user = "root"
        through = {box.through("postgres")!r}
        [timing]
        quiesce = 20
        retries = 0
        hold = 40
        release = 10
        [freeze]
        enabled = false
        [snapshot]
        provider = "none"
        seconds = {seconds}
        """,
        f"orders-{seconds}",
    )


def test_a_database_in_a_container_is_held(here: Stage, box: Container) -> None:
    status, report = here.run(policy(here, box))
    assert (status, report["achieved"]) == (0, "application"), report
    (orders,) = report["applications"]
    assert orders["held"]
    assert orders["saved"]["backup_label"].startswith("START WAL LOCATION")
    assert not box.running("psql")
    assert not box.running("sh -c")


@pytest.mark.parametrize("who", ["keeper", "client", "holder", "app"])
def test_nothing_is_left_inside_when_one_is_killed_in_the_hold(here: Stage, box: Container, who: str) -> None:
    cycle = here.start("run", "--json", policy(here, box, seconds=5))
    cycle.when("snapshot_begin")
    victim = _client(cycle) if who == "client" else cycle.pid(who)
    assert box.running("psql")
    struck = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    box.await_end("psql", 2)
    box.await_end("sh -c", 2)
    assert time.monotonic() - struck < 2
    cycle.wait(15)
    here.wait_until_free(5)
    assert all(report["achieved"] != "application" for report in here.reports())
    assert "backup is not in progress" in _ask(box, "SELECT pg_backup_stop()")


def test_a_statement_that_runs_is_cancelled_when_its_keeper_is_killed(here: Stage, box: Container) -> None:
    """The client hangs in its statement and would read the end of its input much later."""
    slow = f"""
        [[choose]]
        name = "slow"
        [[choose.quiesce]]
        mechanism = "session"
        send = "SELECT pg_sleep({UNLIKE});"
        [[choose.release]]
        mechanism = "session"
        send = "SELECT 1;"
        proof = true"""
    chosen = policy(here, box)
    chosen.write_text(chosen.read_text() + slow)
    cycle = here.start("run", "--json", chosen)
    victim = cycle.pid("keeper")
    cycle.when("quiescing")
    running = (
        "SELECT count(*) FROM pg_stat_activity "
        f"WHERE query LIKE '%sleep({UNLIKE})%' AND pid <> pg_backend_pid()"
    )
    give_up = time.monotonic() + 5
    while _ask(box, running) != "1":
        assert time.monotonic() < give_up
    os.kill(victim, signal.SIGKILL)
    struck = time.monotonic()
    while _ask(box, running) != "0":
        assert time.monotonic() - struck < 2
    box.await_end("psql", 2)
    cycle.wait(15)


def test_a_command_inside_ends_with_whoever_asked_for_it(here: Stage, box: Container) -> None:
    """Otherwise a pause that goes on in there would come after the resume of ``recover``."""
    waiting = here.policy(
        f"""
        name = "orders"
        [command]
        through = {box.through()!r}
        [[quiesce]]
        mechanism = "command"
        argv = ["sh", "-c", "sleep {UNLIKE} & wait; echo paused >/tmp/paused"]
        [[release]]
        mechanism = "command"
        argv = ["true"]
        proof = true
        [[recover]]
        mechanism = "command"
        argv = ["sh", "-c", "echo resumed >>/tmp/recovered"]
        [freeze]
        enabled = false
        [snapshot]
        provider = "none"
        """
    )
    cycle = here.start("run", "--json", waiting)
    victim = cycle.pid("keeper")
    cycle.when("quiescing")
    give_up = time.monotonic() + 5
    while not box.running(f"sleep {UNLIKE}"):
        assert time.monotonic() < give_up
    os.kill(victim, signal.SIGKILL)
    box.await_end(f"sleep {UNLIKE}", 2)
    cycle.wait(15)
    assert box.run("cat", "/tmp/recovered") == "resumed\n"
    assert "paused" not in box.run("ls", "/tmp")


def test_environment_and_input_reach_a_command_inside(box: Container) -> None:
    options = {"through": box.through(), "environment": {"PLACE": "a b"}}
    step = Step(
        "command",
        {
            "argv": ["sh", "-c", 'echo "$PLACE"; cat; echo "$1"; exit 5', "sh", "$(id)"],
            "stdin": "one\ntwo\n\n",
            "environment": {"PLACE": "it's"},
            "exit": [5],
        },
    )
    connection = command.connect(options, [step], Waiter(), lambda pid: None, time.monotonic() + 10)
    assert connection.perform(step, time.monotonic() + 10) == "it's\none\ntwo\n\n$(id)"
    late = Step("command", {"argv": ["sleep", UNLIKE]})
    with pytest.raises(TimedOut, match="sleep did not end"):
        connection.perform(late, time.monotonic() + 0.5)
    assert not box.running(f"sleep {UNLIKE}")
    assert not box.running("sh -c")


@pytest.mark.parametrize("mechanism", ["session", "command"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (lambda box: [w for w in box.through() if w != "--interactive"], "does not reach"),
        (lambda box: [*box.through()[:-1], "no-such-container"], "no-such-container"),
    ],
)
def test_what_stands_before_is_tried_when_connecting(
    box: Container, mechanism: str, words: object, said: str
) -> None:
    assert callable(words)
    options = {"argv": ["sh"], "mark": "echo {mark}", "failed": "x", "through": words(box)}
    step = Step("command", {"argv": ["true"]})
    connect = session.connect if mechanism == "session" else command.connect
    with pytest.raises(StepFailed, match=said):
        connect(options, [step], Waiter(), lambda pid: None, time.monotonic() + 10)


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_any_shell_will_do(shell: str) -> None:
    """A container brings its own ``sh``."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    name = [shell, "sh"] if shell == "busybox" else [shell]

    def with_shell(argv: tuple[str, ...]) -> list[str]:
        where = argv.index("sh")
        return [*argv[:where], *name, *argv[where + 1 :]]

    argv = with_shell(through.command([], ["sh", "-c", "cat; exit 7"], {"A": "1"}, 6))
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a\nb\n\n\n")
        process.stdin.flush()
        assert process.wait(5) == 7
        assert process.stdout.read() == b"a\nb\n\n\n"
    argv = with_shell(through.command([], ["sleep", UNLIKE], {}, 0))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None
        time.sleep(0.3)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(5) == -signal.SIGKILL
    client = subprocess.Popen(
        with_shell(through.session([], ["sleep", UNLIKE], {}, "mark")),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    said = client.stdout.readline().decode()
    assert said == f"mark-{client.pid}\n"
    argv = with_shell(through.lifeline([], client.pid))
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        process.communicate(b"ended\n", 5)
    assert client.poll() is None, "whoever says that it has ended is believed"
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        process.communicate(b"", 5)
    assert client.wait(5) == -signal.SIGINT
    client.stdout.close()
