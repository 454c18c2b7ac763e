"""What Redis's pause is like: the whole server's, nobody's in particular, and not only ours to ask for."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests import scratch
from tests.integration.stage import Stage
from tests.integration.strike import check_claims
from tests.servers.conftest import of
from tests.servers.daemon import free_port
from tests.servers.engines import redis, valkey
from tests.servers.engines.redis import REWRITE_PERCENTAGE, RedisServer
from tests.servers.ground import TIMING, Ground

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

RDB, AOF = redis.ENGINES

aof = pytest.mark.parametrize("grounded", [of(AOF)], indirect=True)


def server_of(grounded: Ground) -> RedisServer:
    """It, with its own ways."""
    assert isinstance(grounded.server, RedisServer)
    return grounded.server


def rewrites(server: RedisServer) -> object:
    """The setting that a hold changes."""
    found = server.ask("CONFIG", "GET", "auto-aof-rewrite-percentage")
    assert isinstance(found, list)
    return found[1]


def clients(server: RedisServer) -> str:
    """What the server says of its clients, and of a pause."""
    found = server.ask("INFO", "clients")
    assert isinstance(found, str)
    return found


@aof
def test_the_session_is_killed_by_an_administrator(grounded: Ground, here: Stage) -> None:
    """redis-cli connects again and goes on: nobody may take that for the session that asked for the pause."""
    server = server_of(grounded)
    with grounded.under_load(here) as writing:
        cycle = here.start("run", "--json", grounded.rehearsal(here, 1.0, freeze=False))
        cycle.when("snapshot_begin")
        assert rewrites(server) == "0"
        listed = server.ask("CLIENT", "LIST")
        assert isinstance(listed, str)
        (ours,) = re.findall(r"^id=(\d+) .* cmd=echo\S* ", listed, re.MULTILINE)
        assert server.ask("CLIENT", "KILL", "ID", ours) == 1
        status = cycle.wait(20)
        writing.wait_for(5)
    check_claims(here, cycle, status, "administrator")
    (report,) = here.reports()
    told = "redis-cli (says|closed its output): Error|the session was"
    assert re.search(told, "; ".join(report["because"])), report["because"]
    assert rewrites(server) == REWRITE_PERCENTAGE


@aof
def test_everybody_is_killed(grounded: Ground, here: Stage) -> None:
    """The pause and the setting outlive us all; the next command takes them back."""
    server = server_of(grounded)
    with grounded.under_load(here) as writing:
        cycle = here.start("run", "--json", grounded.rehearsal(here, 5, freeze=False))
        cycle.when("snapshot_begin")
        pids = [cycle.pid(who) for who in ("client", "app", "watchdog", "holder", "keeper")]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                os.kill(pid, number)
        cycle.wait(10)
        before = max(entry.acknowledged for entry in writing.entries)
        time.sleep(0.3)
        assert max(entry.acknowledged for entry in writing.entries) == before, "nobody is paused"
        assert rewrites(server) == "0"
        status, output, errors = here.app("recover", "--json")
        assert status == 0, errors
        assert json.loads(output)["released"] == ["redis-aof"]
        writing.wait_for(5)
    assert rewrites(server) == REWRITE_PERCENTAGE
    assert [report["achieved"] for report in here.reports()] == ["none"]


@aof
def test_the_wrong_kind_of_file(grounded: Ground, here: Stage) -> None:
    """A restart reads one kind of file only: saving the other would save nothing. Nothing is touched."""
    server = server_of(grounded)
    with grounded.under_load(here) as writing:
        saved = server.ask("LASTSAVE")
        status, report = here.run(grounded.rehearsal(here, 0, freeze=False, appendonly="no"))
        writing.wait_for(5)
    assert (status, report["achieved"]) == (1, "crash")
    assert "CONFIG GET appendonly" in report["applications"][0]["because"][0]
    assert not [e for e in here.events() if e["event"] == "step"]
    assert (server.ask("LASTSAVE"), rewrites(server)) == (saved, REWRITE_PERCENTAGE)


@pytest.mark.parametrize("grounded", [of(valkey.ENGINES[0])], indirect=True)
def test_a_pause_of_somebody_else(grounded: Ground, here: Stage) -> None:
    """Whoever paused it ends the pause, not we. (Redis 7.0 does not tell; Valkey does.)"""
    server = server_of(grounded)
    assert server.ask("CLIENT", "PAUSE", "60000", "WRITE") == "OK"
    try:
        status, report = here.run(grounded.rehearsal(here, 0, freeze=False))
        assert (status, report["achieved"]) == (1, "crash")
        assert "paused_reason" in report["applications"][0]["because"][0]
        assert "paused_reason:client_pause" in clients(server)
    finally:
        server.ask("CLIENT", "UNPAUSE")
    assert here.run(grounded.rehearsal(here, 0, freeze=False))[0] == 0


@contextlib.contextmanager
def replica_of(primary: RedisServer, grounded: Ground) -> Iterator[RedisServer]:
    """A second server that follows it, on the same filesystem."""
    with RDB.server(grounded.volume.mount / "replica") as replica:
        assert isinstance(replica, RedisServer)
        port = str(free_port())
        primary.ask("CONFIG", "SET", "bind", "127.0.0.1")
        primary.ask("CONFIG", "SET", "port", port)
        try:
            replica.ask("REPLICAOF", "127.0.0.1", port)
            give_up = time.monotonic() + 60
            while "connected" not in str(replica.ask("ROLE")):
                assert time.monotonic() < give_up, replica.ask("ROLE")
                time.sleep(0.1)
            yield replica
        finally:
            primary.ask("CONFIG", "SET", "port", "0")


@pytest.mark.parametrize("grounded", [of(RDB)], indirect=True)
def test_a_replica(grounded: Ground, here: Stage) -> None:
    """It is held as a replica or left alone, and what its primary writes meanwhile waits for the release."""
    primary = server_of(grounded)
    with replica_of(primary, grounded) as replica:
        head = grounded.engine.operator(replica)

        def policy(role: str, seconds: float) -> str:
            text = head.replace("extends", f'role = "{role}"\nextends', 1)
            freeze = f'[freeze]\nmounts = ["{grounded.volume.mount}"]\ntimeout = 30\n'
            return f'{text}{TIMING}{freeze}[snapshot]\nprovider = "none"\nseconds = {seconds}\n'

        cycle = here.start("run", "--json", here.policy(policy("standby", 1), "held"))
        cycle.when("quiesced")
        primary.ask("SET", "during", "the hold")
        cycle.when("snapshot_begin")
        assert replica.ask("GET", "during") is None
        assert cycle.wait(20) == 0, cycle.errors
        (report,) = here.reports()
        assert (report["achieved"], report["applications"][0]["saved"]["role"]) == ("application", "slave")
        give_up = time.monotonic() + 10
        while replica.ask("GET", "during") is None:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        primary.ask("DEL", "during")
        status, report = here.run(here.policy(policy("primary", 0), "left"))
        assert (status, report["applications"][0]["left_alone"]) == (1, True)
    scratch.thaw(grounded.volume.mount)
