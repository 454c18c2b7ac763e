"""The policy mongodb with a real mongosh, before a stand-in that speaks MongoDB's own protocol."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.stage import Stage, stage
from tests.standins.ground import USER, Standin, standin
from tests.standins.wire import Wire, decode, encode

pytestmark = [pytest.mark.integration]


def test_bson_goes_there_and_back() -> None:
    document = {"a": 1, "b": "x", "c": True, "d": {"e": [1.5, None, {"f": "g"}]}}
    assert decode(encode(document)) == document


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


@pytest.fixture
def mongosh() -> str:
    found = shutil.which(os.environ.get("STILLFRAME_TEST_MONGOSH", "mongosh"))
    if found is None:
        pytest.skip("needs mongosh (npm install mongosh, then STILLFRAME_TEST_MONGOSH=.../bin/mongosh)")
    return os.path.realpath(found)


@pytest.fixture
def at(here: Stage) -> Iterator[Standin]:
    with standin(here, "mongodb") as made:
        yield made


@pytest.fixture
def wire(at: Standin) -> Iterator[Wire]:
    with Wire(at.address) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def policy(at: Standin, wire: Wire, mongosh: str, seconds: float) -> Path:
    client = at.stage.program("client", f'#!/bin/sh\nexec {shutil.which("node")} {mongosh} "$@"\n')
    text = (
        f'extends = "mongodb"\n[settings]\nos_user = "{USER}"\nclient = "{client}"\n'
        f'uri = "mongodb://127.0.0.1:{wire.port}/?directConnection=true"\n'
        f'[session.environment]\nHOME = "/nonexistent"\n'
    )
    return at.policy(text, seconds=seconds, patience=40)


def test_held_and_released(at: Standin, wire: Wire, mongosh: str) -> None:
    cycle = at.stage.start("run", "--json", policy(at, wire, mongosh, 2))
    cycle.when("snapshot_begin", seconds=60)
    assert at.look("locks") == 1
    assert cycle.wait(60) == 0, cycle.errors + cycle.output
    (report,) = at.stage.reports()
    assert (report["achieved"], report["applications"][0]["saved"]["lock_count"]) == ("application", "1")
    assert at.look("locks") == 0


@pytest.mark.parametrize("how", ["keeper", "unlock"])
def test_lost(at: Standin, wire: Wire, mongosh: str, how: str) -> None:
    cycle = at.stage.start("run", "--json", policy(at, wire, mongosh, 2))
    cycle.when("snapshot_begin", seconds=60)
    if how == "keeper":
        os.kill(cycle.pid("keeper"), signal.SIGKILL)
    else:
        at.call("unlock_quietly")
    at.wait_for("locks", 0, 40)
    assert cycle.wait(60) != 0
    assert all(report["achieved"] != "application" for report in at.stage.reports())
    assert at.look("unlocks") == (1 if how == "keeper" else 0)
