"""An application whose quiesce outlives whoever asked for it: whoever is killed, it is resumed.

The application is a real server of the tests' own, known to the program by one TOML file alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ledger, scratch
from tests.integration import orders
from tests.integration.stage import Cycle, Stage, stage
from tests.integration.strike import LIMIT, cases, check_claims, last_hold, strike, thaw_is_refused

pytestmark = [pytest.mark.integration, pytest.mark.root]

_HELD = ("half-quiesced", "quiesced", "frozen", "mid-hold", "thawed", "releasing")
STRUCK = {
    "holder": _HELD,
    "watchdog": ("quiesced", "mid-hold", "releasing"),
    "app": ("half-quiesced", "quiesced", "frozen", "mid-hold", "releasing"),
    "keeper": _HELD,
    "control": ("half-quiesced", "verifying", "releasing"),
}
"""Who is killed, and when; ``control`` is the control program in the midst of its work."""


@dataclass(slots=True)
class Server:
    """The running server, and what it noted."""

    where: Stage
    data: Path
    program: Path
    process: subprocess.Popen[bytes]

    @property
    def notes(self) -> Path:
        return self.where.folder / "notes"

    def says(self) -> str:
        """``running ID`` or ``paused ID``."""
        argv = [str(self.program), "status"]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    def first_record_after(self, moment: float, seconds: float) -> float:
        """When the first record after that moment was on the disk. AssertionError after ``seconds``."""
        give_up = time.monotonic() + seconds
        while True:
            noted = ledger.Ledger.read(self.notes).entries
            if noted and noted[-1].acknowledged > moment:
                return next(e.acknowledged for e in noted if e.acknowledged > moment)
            assert time.monotonic() < give_up, f"{self.says()}: {self.where.events()}"
            time.sleep(0.005)


@contextlib.contextmanager
def serve(where: Stage, data: Path) -> Iterator[Server]:
    """A server that writes to ``data``, with a control program at its side."""
    address = where.folder / "socket"
    address.unlink(missing_ok=True)
    code = orders.__file__
    program = where.program("orders-ctl", f'#!/bin/sh\nexec {sys.executable} -IS {code} ctl {address} "$1"\n')
    argv = [sys.executable, "-IS", str(code), "serve", str(data), str(where.folder / "notes"), str(address)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        server = Server(where, data, program, process)
        give_up = time.monotonic() + 10
        while not address.exists() or not server.notes.exists():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        yield server
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def volume() -> Iterator[scratch.Volume]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with scratch.filesystem("ext4", 128) as made:
        yield made


@pytest.fixture
def server(app_command: list[str], volume: scratch.Volume) -> Iterator[Server]:
    try:
        with stage(app_command) as where, serve(where, volume.mount / where.folder.name) as running:
            yield running
    finally:
        scratch.thaw(volume.mount)


def policy(server: Server, volume: scratch.Volume, seconds: float = 0.4, extra: str = "") -> Path:
    """What an operator writes for an application of the example's kind."""
    return server.where.policy(
        f"""
        name = "orders"
        extends = "example-custom"
        {extra}
        [settings]
        control = "{server.program}"
        os_user = "root"
        [timing]
        quiesce = 10
        retries = 0
        hold = 20
        release = 10
        [freeze]
        mounts = ["{volume.mount}"]
        timeout = 10
        [snapshot]
        provider = "none"
        seconds = {seconds}
        """
    )


def test_held_for_the_snapshot(server: Server, volume: scratch.Volume) -> None:
    """Nothing is written between quiesced and the release, and the server goes on afterwards."""
    status, report = server.where.run(policy(server, volume))
    assert (status, report["achieved"], report["because"]) == (0, "application", [])
    times = {e["event"]: e["t"] for e in server.where.events()}
    server.first_record_after(times["released"], 2)
    noted = ledger.Ledger.read(server.notes)
    assert not [e for e in noted.entries if times["quiesced"] < e.acknowledged < times["releasing"]]
    assert report["applications"][0]["saved"]["run_id"] == server.says().replace("running", "paused")


@pytest.mark.slow
@pytest.mark.parametrize(("who", "instant"), cases(STRUCK))
def test_killed(server: Server, volume: scratch.Volume, who: str, instant: str) -> None:
    """Resumed within two seconds by whoever survives, nothing claimed, and the next cycle succeeds."""
    where = server.where
    cycle = where.start("run", "--json", policy(server, volume))
    struck = strike_control(cycle, instant) if who == "control" else strike(cycle, who, instant)
    status = cycle.wait(15)
    assert where.wait_until_free(5) < 3
    resumed = server.first_record_after(last_hold(where.events(), struck), 5) - struck
    assert resumed < LIMIT, (resumed, where.events())
    assert server.says().startswith("running")
    assert thaw_is_refused(volume.mount)
    assert not Path(where.paths.outstanding).exists()
    check_claims(where, cycle, status, who)
    assert where.run(policy(server, volume, 0))[0] == 0
    print(f"{who} {instant}: resumed {resumed:.3f} s after")


def strike_control(cycle: Cycle, instant: str) -> float:
    """Kill the control program while it pauses, is asked for the state, or resumes."""
    before = ("half-quiesced", "quiesced", "verifying", "releasing").index(instant)
    started = cycle.when("process", role="client", skip=before)
    struck = time.monotonic()
    os.kill(started["pid"], signal.SIGKILL)
    return struck


def test_everything_killed(server: Server, volume: scratch.Volume) -> None:
    """A power cut's worth: every process dies at once; ``app recover`` thaws and resumes."""
    where = server.where
    cycle = where.start("run", "--json", policy(server, volume, 3))
    pids = [cycle.pid(role) for role in ("app", "watchdog", "holder", "keeper")]
    cycle.when("frozen")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    cycle.wait(5)
    where.wait_until_free(5)
    status, output, _ = where.app("status", "--json")
    assert status == 7
    assert json.loads(output)["left_behind"]
    assert scratch.is_frozen(volume.mount)
    assert server.says().startswith("paused")
    status, output, errors = where.app("recover", "--json")
    assert status == 0, errors
    assert json.loads(output) == {"thawed": [str(volume.mount)], "released": ["orders"], "left": []}
    assert server.says().startswith("running")
    assert not scratch.is_frozen(volume.mount)
    assert where.app("status")[0] == 0
    assert [r["achieved"] for r in where.reports()] == ["none"]
