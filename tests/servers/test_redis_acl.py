"""Redis and Valkey held by a user who may run the commands that the policy's header names, and no other."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.integration.stage import Stage
from tests.servers.conftest import of
from tests.servers.engines import redis, valkey
from tests.servers.engines.redis import RedisServer
from tests.servers.ground import TIMING, Ground

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

USER, PASSWORD = "keeper", "correct-horse-battery"

HEADER = (Path(__file__).resolve().parents[2] / "policies/redis.toml").read_text(encoding="utf-8")

RDB, AOF = (of(engine) for engine in redis.ENGINES)
VALKEY = of(valkey.ENGINES[0])


def named() -> list[str]:
    """The commands of the header."""
    (listed,) = re.findall(r"^# Needs: the commands ([A-Z, ]+) \(an ACL user", HEADER, re.MULTILINE)
    return [word.lower() for word in listed.split(", ")]


def held_by_the_user(grounded: Ground, here: Stage, commands: list[str], password: str = PASSWORD) -> Path:
    """A policy with the login of a new user who may run these commands."""
    server = grounded.server
    assert isinstance(server, RedisServer)
    rights = ["nocommands", *(f"+{one}" for one in commands)]
    assert server.ask("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *rights) == "OK"
    secret = here.folder / "password"
    secret.write_text(password + "\n")
    secret.chmod(0o600)
    more = f'[secrets.password]\nfile = "{secret}"\n[session]\nlogin = ["AUTH {USER} {{password:quoted}}"]\n'
    head = grounded.engine.operator(server)
    return here.policy(f'{head}{more}{TIMING}[freeze]\nenabled = false\n[snapshot]\nprovider = "none"\n')


def refused(grounded: Ground, here: Stage, chosen: Path) -> str:
    """Why it was not held, which must not take long and must leave nobody paused."""
    server = grounded.server
    assert isinstance(server, RedisServer)
    began = time.monotonic()
    status, report = here.run(chosen)
    assert time.monotonic() - began < 8, "the reason was there at once"
    assert (status, report["achieved"]) == (1, "crash")
    assert server.ask("SET", "after", "it") == "OK"
    return "; ".join(report["applications"][0]["because"])


@pytest.mark.parametrize("grounded", [RDB, AOF, VALKEY], indirect=True)
def test_the_commands_of_the_header_are_enough(grounded: Ground, here: Stage) -> None:
    status, report = here.run(held_by_the_user(grounded, here, named()))
    assert (status, report["achieved"]) == (0, "application"), report


@pytest.mark.parametrize("grounded", [RDB, VALKEY], indirect=True)
def test_without_one_of_them_the_reason_is_told_at_once(grounded: Ground, here: Stage) -> None:
    """Without ECHO above all: the client prints no mark then, and was waited for to the end."""
    for lacking in named():
        chosen = held_by_the_user(grounded, here, [one for one in named() if one != lacking])
        because = refused(grounded, here, chosen)
        assert "NOPERM" in because and f"'{lacking}" in because, because


@pytest.mark.parametrize("grounded", [RDB], indirect=True)
def test_a_wrong_password_is_told_at_once(grounded: Ground, here: Stage) -> None:
    because = refused(grounded, here, held_by_the_user(grounded, here, named(), "wrong"))
    assert "WRONGPASS" in because
