"""The script host's habits, and what a compiled pair makes of them: pipes, repeats, parameters."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import threading
import time

import pytest

from tests.conformance.pair import OWN, SHELLS, Stage, needs
from tests.conformance.script_host import Backup

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("shell", SHELLS)
def test_chatty_client_does_not_block(stage: Stage, shell: str) -> None:
    """200 KB of output of the application's own programs never reach the pipes that nobody reads."""
    sh = needs(shell)
    chatty = '["/usr/bin/seq", "1", "40000"]'
    stage.compile(OWN.format(quiesce=chatty, release=chatty))
    began = time.monotonic()
    result = stage.backup(sh)
    assert (result.backup, result.error) == (Backup.APPLICATION, None), stage.log("pre")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("shell", SHELLS)
def test_post_without_pre_and_post_twice(stage: Stage, shell: str) -> None:
    stage.compile()
    argv = [*needs(shell), str(stage.azure / "stillframe/post.sh")]
    for _ in range(2):
        assert subprocess.run(argv, timeout=20, capture_output=True).returncode == 0, stage.log("post")


def test_second_pre_script_is_refused_and_the_hold_stands(stage: Stage) -> None:
    stage.compile()
    pre = str(stage.azure / "stillframe/pre.sh")

    def snapshot() -> None:
        # The first hold is the client's of this backup; another pre-script must not break it.
        done = subprocess.run(["sh", pre], timeout=20, capture_output=True)
        assert done.returncode != 0
        assert stage.is_held()

    result = stage.backup(snapshot=snapshot)
    assert (result.backup, result.error) == (Backup.APPLICATION, None), stage.log("pre") + stage.log("post")


def test_parameters_of_the_framework_are_taken(stage: Stage) -> None:
    stage.compile(framework='pre_params = ["--help", "a b; $(touch /tmp/never)"]\npost_params = ["-x"]')
    assert stage.backup().backup is Backup.APPLICATION


def test_full_log_folder_does_not_stop_a_backup(stage: Stage) -> None:
    stage.compile()
    log = stage.prefix / "var/log/stillframe"
    log.mkdir(parents=True)
    # A folder where the log should be: nothing can be written, by root neither.
    (log / "pre.log").mkdir()
    (log / "post.log").mkdir()
    assert stage.backup().backup is Backup.APPLICATION


def test_post_script_is_quick(stage: Stage) -> None:
    """Through the holder, without starting the binary."""
    stage.compile()
    subprocess.run(["sh", str(stage.azure / "stillframe/pre.sh")], check=True, timeout=20)
    assert stage.is_held()
    began = time.monotonic()
    subprocess.run(["sh", str(stage.azure / "stillframe/post.sh")], check=True, timeout=20)
    assert time.monotonic() - began < 0.5
    assert not stage.is_held()


def test_writers_of_many_threads_lose_nothing(stage: Stage) -> None:
    stage.compile()
    stop = threading.Event()
    acknowledged: list[int] = []

    def write() -> None:
        connection = sqlite3.connect(stage.database, timeout=30, isolation_level=None)
        number = 0
        while not stop.is_set():
            number += 1
            connection.execute("INSERT INTO sale VALUES (?)", (number,))
            acknowledged.append(number)
            time.sleep(0.002)  # SQLite's lock is not fair: who never pauses starves all others
        connection.close()

    copy = stage.folder / "copy.db"
    before: list[int] = []

    def snapshot() -> None:
        before.extend(acknowledged)
        shutil.copyfile(stage.database, copy)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.3)
        result = stage.backup(snapshot=snapshot)
    finally:
        stop.set()
        writer.join(40)
    assert result.backup is Backup.APPLICATION, stage.log("pre")
    connection = sqlite3.connect(copy)
    stored = {row[0] for row in connection.execute("SELECT number FROM sale")}
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert before
    assert set(before) <= stored
    # The copy was taken from held files: nothing from after the snapshot began is in it.
    assert len(stored) <= len(before) + 1


def test_post_called_by_hand_asks_the_holder(stage: Stage) -> None:
    """Also without the script: the holder is asked, and a second time vouches for nothing."""
    stage.compile()
    assert subprocess.run(["sh", stage.azure / "stillframe/pre.sh"], check=False).returncode == 0
    assert stage.is_held()
    assert stage.run_app("post", "--config", stage.azure).returncode == 0
    assert not stage.is_held()
    assert stage.run_app("post", "--config", stage.azure).returncode == 1


def test_a_policy_without_an_application(stage: Stage) -> None:
    """Nothing is quiesced, so there is nothing that could take too long."""
    stage.compile('version = 1\nname = "plain"\nextends = "filesystem"\n', framework="timeout_seconds = 10")
    assert subprocess.run(["sh", stage.azure / "stillframe/pre.sh"], check=False).returncode == 0, stage.log(
        "pre"
    )
    assert subprocess.run(["sh", stage.azure / "stillframe/post.sh"], check=False).returncode == 0
