"""A login that is typed, and a release on a connection of somebody else's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.secrets.hiding import check_hidden, secret_file
from tests.integration.stage import Stage

pytestmark = [pytest.mark.integration, pytest.mark.root]


@dataclass(frozen=True, slots=True)
class Redis:
    socket: Path

    def ask(self, *words: str, password: str = "", seconds: float = 10) -> str:
        """The answer to one command, after AUTH if there is a password: typed, never an argument."""
        quoted = "".join(f"\\x{b:02x}" for b in password.encode())
        text = (f'AUTH "{quoted}"\n' if password else "") + " ".join(words) + "\n"
        argv = ["redis-cli", "-s", str(self.socket)]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=seconds)
        return done.stdout.removeprefix("OK\n").strip()

    def is_paused(self, password: str) -> bool:
        """Whether a write has to wait."""
        try:
            return "OK" not in self.ask("SET", "a", "b", password=password, seconds=0.2)
        except subprocess.TimeoutExpired:
            return True


@pytest.fixture
def redis(canary: str) -> Iterator[Redis]:
    """A server whose password is the canary; it reads that from its standard input."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")
    with tempfile.TemporaryDirectory(prefix="sf-redis-", dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        path = Path(folder, "s")
        quoted = "".join(f"\\x{b:02x}" for b in canary.encode())
        settings = f'port 0\nunixsocket {path}\nunixsocketperm 777\ndir {folder}\nrequirepass "{quoted}"\n'
        server = subprocess.Popen(["redis-server", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert server.stdin is not None
        server.stdin.write(settings.encode())
        server.stdin.close()
        made = Redis(path)
        give_up = time.monotonic() + 10
        while "PONG" not in made.ask("PING", password=canary):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        yield made
        server.kill()
        server.wait()


def redis_policy(here: Stage, redis: Redis, source: str, seconds: float) -> Path:
    return here.policy(
        f"""
        name = "cache"
        extends = "redis"
        [secrets.password]
        {source}
        [settings]
        connect = ["-s", "{redis.socket}"]
        [session]
        login = ["AUTH {{password:quoted}}"]
        [timing]
        quiesce = 10
        retries = 0
        hold = 20
        release = 10
        [freeze]
        enabled = false
        [snapshot]
        provider = "none"
        seconds = {seconds}
        """,
        f"cache-{seconds}",
    )


def test_a_login_for_redis(here: Stage, canary: str, redis: Redis) -> None:
    file = secret_file(here, canary)
    cycle = here.start("run", "--json", redis_policy(here, redis, f'file = "{file}"', 1))
    cycle.when("snapshot_begin")
    check_hidden(here, cycle, canary, held=True)
    assert cycle.wait() == 0, cycle.output + cycle.errors
    check_hidden(here, cycle, canary, held=False)
    assert here.reports()[0]["achieved"] == "application"


@pytest.mark.parametrize("who", ["keeper", "holder"])
def test_whoever_survives_logs_in_by_itself(here: Stage, canary: str, redis: Redis, who: str) -> None:
    """What outlives the session is released by another process, which reads the secret then."""
    program = here.program("tell", f"#!/bin/sh\ncat '{secret_file(here, canary)}'\n")
    cycle = here.start("run", "--json", redis_policy(here, redis, f'command = ["{program}"]', 5))
    victim = cycle.pid(who)
    cycle.when("snapshot_begin")
    assert redis.is_paused(canary)
    os.kill(victim, signal.SIGKILL)
    struck = time.monotonic()
    while redis.is_paused(canary):
        assert time.monotonic() - struck < 2
    cycle.wait(15)
    here.wait_until_free(5)
    check_hidden(here, cycle, canary, held=False)


def test_recover_logs_in_by_itself(here: Stage, canary: str, redis: Redis) -> None:
    """Everybody died: whoever comes next reads the secret, and says nothing of it."""
    file = secret_file(here, canary)
    cycle = here.start("run", "--json", redis_policy(here, redis, f'file = "{file}"', 30))
    cycle.when("snapshot_begin")
    pids = [cycle.process.pid, *(e["pid"] for e in here.events() if e["event"] == "process")]
    living = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in living:
            os.kill(pid, number)
    cycle.wait()
    here.wait_until_free(5)
    assert redis.is_paused(canary)
    status, output, errors = here.app("recover")
    assert (status, redis.is_paused(canary)) == (0, False), output + errors
    check_hidden(here, cycle, canary, held=False)


def test_a_secret_that_was_changed_is_read_anew(here: Stage, canary: str, redis: Redis) -> None:
    file = secret_file(here, canary)
    file.write_text("an old password\n")
    policy = redis_policy(here, redis, f'file = "{file}"', 0)
    policy.write_text(policy.read_text().replace("retries = 0", "retries = 5"))
    cycle = here.start("run", "--json", policy)
    cycle.when("attempt_failed")
    file.write_text(f"{canary}\n")
    assert cycle.wait() == 0, cycle.output
    assert here.reports()[0]["achieved"] == "application"
    check_hidden(here, cycle, canary, held=False)


def test_a_login_that_fails(here: Stage, canary: str, redis: Redis) -> None:
    secret_file(here, canary)
    wrong = here.folder / "wrong"
    wrong.write_text("not " + canary)
    wrong.chmod(0o600)
    cycle = here.start("run", "--json", redis_policy(here, redis, f'file = "{wrong}"', 0))
    assert cycle.wait() != 0
    wrong.unlink()
    check_hidden(here, cycle, canary, held=False)
