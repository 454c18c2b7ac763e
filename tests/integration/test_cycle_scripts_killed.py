"""Law 1 through the compiled scripts: the hold stands between pre.sh and post.sh, and somebody is killed.

The post-script comes at once, as the extension's does; it must neither say that all is well nor leave
anything held.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ledger
from tests.integration.stage import Stage, first_commit_after, stage
from tests.integration.strike import LIMIT, last_hold
from tests.integration.test_kill import SQLITE, TIMING

pytestmark = [pytest.mark.integration, pytest.mark.root]

HELD = [
    (who, number, seconds)
    for who, number in (
        ("holder", signal.SIGKILL),
        ("holder", signal.SIGSTOP),
        ("watchdog", signal.SIGKILL),
        ("keeper", signal.SIGKILL),
        ("client", signal.SIGKILL),
    )
    for seconds in (0.0, 0.05, 1.5)
]
"""Who is struck while the hold stands, and how long after it the post-script comes."""


BINARY = """\
#!/bin/sh
{app} "$@"
status=$?
[ "$1" = pre ] && [ -e {folder}/strike ] && kill -9 $$
exit $status
"""
"""What the scripts call: the real thing, which dies at the very end of ``pre`` where a test wants it to."""


@dataclass(slots=True)
class Pair:
    """The compiled scripts, and the database that they hold."""

    where: Stage
    database: Path

    @property
    def config(self) -> Path:
        return self.where.folder / "azure"

    def script(self, which: str) -> subprocess.Popen[bytes]:
        """Start it as the extension does."""
        return subprocess.Popen(
            ["sh", self.config / "stillframe" / f"{which}.sh"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "STILLFRAME_PREFIX": str(self.where.prefix)},
        )

    def log(self, which: str) -> str:
        return Path(self.where.paths.log, f"{which}.log").read_text(encoding="utf-8")

    def commits_within(self, writer: ledger.Writer, struck: float) -> float:
        """Seconds from the blow until a commit proved the release."""
        return first_commit_after(writer, last_hold(self.where.events(), struck), 5) - struck


@pytest.fixture
def pair(app_command: list[str], tmp_path: Path) -> Iterator[Pair]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with stage(app_command) as where:
        made = Pair(where, tmp_path / "orders.db")
        text = SQLITE.format(timing=TIMING.replace("hold = 20", "hold = 70"), database=made.database, rest="")
        where.folder.chmod(0o700)
        binary = where.program("app", BINARY.format(app=app_command[0], folder=where.folder))
        status, _, errors = where.app("compile", where.policy(text), "--out", made.config, "--binary", binary)
        assert status == 0, errors
        yield made


@pytest.fixture
def writer(pair: Pair) -> Iterator[ledger.Writer]:
    with ledger.Writer("sqlite", str(pair.database), notes=pair.where.folder / "ledger") as running:
        yield running


def pid_of(pair: Pair, role: str) -> int:
    return int(next(e["pid"] for e in pair.where.events() if e["event"] == "process" and e["role"] == role))


def check_nothing_claimed(pair: Pair) -> None:
    assert [r["achieved"] for r in pair.where.reports() if r["achieved"] == "application"] == []
    assert not any(r["stuck"] for r in pair.where.reports())
    assert pair.where.wait_until_free(5) < 3


def check_next_succeeds(pair: Pair) -> None:
    assert pair.script("pre").wait(20) == 0, pair.log("pre")
    before = len(pair.where.reports())
    assert pair.script("post").wait(20) == 0, pair.log("post")
    # The script is answered before the report is written.
    end = time.monotonic() + 5
    while len(pair.where.reports()) == before and time.monotonic() < end:
        time.sleep(0.02)
    assert pair.where.reports()[-1]["achieved"] == "application"


@pytest.mark.slow
@pytest.mark.parametrize(("who", "number", "seconds"), HELD)
def test_struck_while_held(
    pair: Pair, writer: ledger.Writer, who: str, number: signal.Signals, seconds: float
) -> None:
    """Released within two seconds, whether the post-script comes or not; it says that the hold was broken."""
    assert pair.script("pre").wait(20) == 0, pair.log("pre")
    struck = time.monotonic()
    os.kill(pid_of(pair, who), number)
    time.sleep(seconds)
    assert pair.script("post").wait(20) == 1, pair.log("post")
    assert pair.commits_within(writer, struck) < LIMIT
    check_nothing_claimed(pair)
    check_next_succeeds(pair)


@pytest.mark.slow
@pytest.mark.parametrize("instant", ["begin", "connected", "quiescing", "step"])
def test_pre_killed(pair: Pair, writer: ledger.Writer, instant: str) -> None:
    """``app pre`` killed on its way: its script fails, nothing stays held, and the post-script agrees."""
    script = pair.script("pre")
    give_up = time.monotonic() + 10
    while not [e for e in pair.where.events() if e["event"] == instant]:
        assert time.monotonic() < give_up
        time.sleep(0.0005)
    begin = next(e for e in pair.where.events() if e["event"] == "begin")
    struck = time.monotonic()
    os.kill(begin["pid"], signal.SIGKILL)
    assert script.wait(20) != 0
    check_pre_failed(pair, writer, struck)


def test_pre_killed_when_all_is_held(pair: Pair, writer: ledger.Writer) -> None:
    """Killed between its hand-off and its end: the backup counts it as failed, so the hold claims nothing."""
    (pair.where.folder / "strike").touch()
    assert pair.script("pre").wait(20) != 0
    (pair.where.folder / "strike").unlink()
    assert "detached" in {e["event"] for e in pair.where.events()}
    check_pre_failed(pair, writer, time.monotonic())


def test_script_itself_killed(pair: Pair, writer: ledger.Writer) -> None:
    """The extension goes on without it at once, so what is quiesced after that is in no snapshot."""
    script = pair.script("pre")
    give_up = time.monotonic() + 10
    while not [e for e in pair.where.events() if e["event"] == "quiescing"]:
        assert time.monotonic() < give_up
        time.sleep(0.0005)
    os.kill(script.pid, signal.SIGKILL)
    struck = time.monotonic()
    script.wait(20)
    pair.where.wait_until_free(5)
    assert "detached" not in {e["event"] for e in pair.where.events()}
    (report,) = pair.where.reports()
    assert "the pre-script was killed" in str(report["because"]), report
    check_pre_failed(pair, writer, struck)


def check_pre_failed(pair: Pair, writer: ledger.Writer, struck: float) -> None:
    """Nothing is held or claimed, with the post-script that the extension runs all the same."""
    assert pair.commits_within(writer, struck) < LIMIT
    pair.script("post").wait(20)
    check_nothing_claimed(pair)
    check_next_succeeds(pair)
