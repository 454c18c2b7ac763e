"""Redis and Valkey: the noted replication offset is where the copy stands in its primary's stream."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import scratch
from tests.integration.stage import Stage, stage
from tests.servers.conftest import full_form
from tests.servers.daemon import free_port
from tests.servers.engines import redis, valkey
from tests.servers.engines.redis import Redis, RedisServer
from tests.servers.ground import Ground

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

ENGINES = [
    pytest.param(engine, marks=() if engine.main else full_form, id=engine.name)
    for engine in (*redis.ENGINES, *valkey.ENGINES)
]


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary that is written to and snapshotted, and a replica of it."""

    engine: Redis
    primary: RedisServer
    replica: RedisServer
    ground: Ground
    follow: tuple[str, ...]
    """Options of a replica."""


@pytest.fixture(params=ENGINES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    engine: Redis = request.param
    missing = "needs root" if os.geteuid() != 0 else engine.missing()
    if missing:
        pytest.skip(missing)
    port = str(free_port())
    # A ping of the primary's moves the offset, too.
    options: tuple[str, ...] = ("--port", port, "--bind", "127.0.0.1", "--repl-ping-replica-period", "3600")
    options += ("--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb")
    follow = ("--replicaof", "127.0.0.1", port)
    with contextlib.ExitStack() as stack:
        volume = stack.enter_context(scratch.filesystem("ext4", engine.megabytes))
        elsewhere = stack.enter_context(scratch.filesystem("ext4", engine.megabytes))
        primary = stack.enter_context(engine.instance(volume.mount / "primary", True, *options))
        empty = elsewhere.mount / "replica"
        empty.mkdir(mode=0o700)
        programs = engine.programs()
        assert isinstance(programs, redis.Programs)
        shutil.chown(empty, programs.user, programs.user)
        replica = stack.enter_context(engine.instance(empty, False, *follow))
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
        yield Pair(engine, primary, replica, Ground(engine, volume, primary), follow)


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def wait_until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    """Raises AssertionError where it does not become so."""
    give_up = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def slowly(chosen: Path) -> Path:
    """That policy, with half a second before the copy is made."""
    text = chosen.read_text()
    assert 'argv = ["cp", ' in text
    waiting = 'argv = ["sh", "-c", "sleep 0.5; exec \\"$@\\"", "sh", "cp", '
    chosen.write_text(text.replace('argv = ["cp", ', waiting))
    return chosen


def test_offset(here: Stage, pair: Pair) -> None:
    """A replica that has read so far holds what the copy does; an RDB's copy asks for the very next byte."""
    with pair.ground.under_load(here) as writing:
        writing.wait_for(50)
        cycle = here.start("run", "--json", "--quiet", slowly(pair.ground.noting(here)))
        cycle.when("snapshot_begin")
        during = pair.primary.info("replication")
        offset = during["master_repl_offset"]
        wait_until(lambda: pair.replica.info("replication")["slave_repl_offset"] == offset)
        pair.replica.ask("REPLICAOF", "NO", "ONE")
        assert cycle.process.poll() is None, "the hold was over"
        assert cycle.wait(30) == 0
        writing.wait_for(50)
    (report,) = here.reports()
    assert (report["achieved"], report["because"]) == ("application", []), report
    with pair.ground.copy(report) as data:
        noted = pair.ground.noted(data)
        assert (noted["master_replid"], noted["master_repl_offset"]) == (during["master_replid"], offset)
        assert int(offset) > 1000
        with pair.engine.instance(data, False) as copy:
            assert not copy.contents().broken
            assert copy.contents() == pair.replica.contents() != pair.primary.contents()
        if pair.engine.name.endswith("-rdb"):
            with pair.engine.instance(data, False, *pair.follow) as copy:
                wait_until(lambda: copy.contents() == pair.primary.contents())
                log = (copy.address.parent / "log").read_text()
            assert f"(request {noted['master_replid']}:{int(offset) + 1})" in log
            assert pair.primary.info("stats")["sync_partial_ok"] == "1"
