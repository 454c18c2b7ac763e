"""A login that is typed, and a release on a connection of somebody else's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.secrets.hiding import check_hidden, new_canary, secret_file
from tests.integration.secrets.logins.redis import Place, locked, quoted
from tests.integration.stage import Stage
from tests.servers.engines import redis as engine

pytestmark = [pytest.mark.integration, pytest.mark.root]


@pytest.fixture
def redis(canary: str) -> Iterator[Place]:
    """A server whose password is the canary."""
    programs = engine.Redis("no").programs()
    if isinstance(programs, str):
        pytest.skip(programs)
    with locked(programs, canary) as place:
        yield place


def redis_policy(here: Stage, redis: Place, source: str, seconds: float) -> Path:
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


def test_a_login_for_redis(here: Stage, canary: str, redis: Place) -> None:
    file = secret_file(here, canary)
    cycle = here.start("run", "--json", redis_policy(here, redis, f'file = "{file}"', 1))
    cycle.when("snapshot_begin")
    check_hidden(here, cycle, canary, held=True)
    assert cycle.wait() == 0, cycle.output + cycle.errors
    check_hidden(here, cycle, canary, held=False)
    assert here.reports()[0]["achieved"] == "application"


@pytest.mark.parametrize("who", ["keeper", "holder"])
def test_whoever_survives_logs_in_by_itself(here: Stage, canary: str, redis: Place, who: str) -> None:
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


def test_recover_logs_in_by_itself(here: Stage, canary: str, redis: Place) -> None:
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


def test_a_secret_that_was_changed_is_read_anew(here: Stage, canary: str, redis: Place) -> None:
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


def test_a_secret_that_is_changed_during_the_hold_is_read_anew(
    here: Stage, canary: str, redis: Place
) -> None:
    """The session goes on with what it was opened with; who undoes it after the session logs in again."""
    file = secret_file(here, canary)
    cycle = here.start("run", "--json", redis_policy(here, redis, f'file = "{file}"', 5))
    client = cycle.pid("client")
    cycle.when("snapshot_begin")
    later = new_canary()
    assert redis.ask("CONFIG", "SET", "requirepass", quoted(later), password=canary) == "OK"
    file.write_text(f"{later}\n")
    assert redis.is_paused(later)
    os.kill(client, signal.SIGKILL)
    struck = time.monotonic()
    while redis.is_paused(later):
        assert time.monotonic() - struck < 2
    assert cycle.wait(15) == 6, cycle.output + cycle.errors
    for secret in (canary, later):
        check_hidden(here, cycle, secret, held=False)


def test_a_login_that_fails(here: Stage, canary: str, redis: Place) -> None:
    secret_file(here, canary)
    wrong = here.folder / "wrong"
    wrong.write_text("not " + canary)
    wrong.chmod(0o600)
    cycle = here.start("run", "--json", redis_policy(here, redis, f'file = "{wrong}"', 0))
    assert cycle.wait() != 0
    wrong.unlink()
    check_hidden(here, cycle, canary, held=False)
