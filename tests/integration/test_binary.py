"""dist/app is the tree in one file, and what it leaves behind needs no file of it any more."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.ledger import ROOT

pytestmark = pytest.mark.integration


@pytest.fixture
def binary() -> Path:
    built = ROOT / "dist" / "app"
    if not built.is_file():
        pytest.skip("needs dist/app (make binary)")
    return built


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder that root trusts: none of its parents can be written to by others."""
    folder = Path("/run", f"stillframe-test-{os.getpid()}")
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


def test_it_answers_and_compiles_as_the_tree_does(binary: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "build" / "smoke.py", binary], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.root
def test_a_hold_outlives_the_client_and_all_that_it_unpacked(
    binary: Path, own_folder: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, database, unpacked = own_folder / "app", own_folder / "orders.db", own_folder / "tmp"
    shutil.copy(binary, app)
    unpacked.mkdir()
    monkeypatch.setenv("TMPDIR", str(unpacked))
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE t (a)")
    policy = own_folder / "orders.toml"
    policy.write_text(
        f'version = 1\nname = "orders"\nextends = "sqlite"\n[settings]\ndatabases = ["{database}"]\n',
        encoding="utf-8",
    )
    azure = own_folder / "azure"
    subprocess.run([app, "compile", policy, "--out", azure, "--binary", app], check=True, capture_output=True)
    subprocess.run(["sh", azure / "stillframe" / "pre.sh"], check=True)
    assert list(unpacked.iterdir()) == []
    app.unlink()
    with closing(sqlite3.connect(database, timeout=0)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("INSERT INTO t VALUES (1)")
        # Without the binary: the holder itself proves, releases and reports.
        subprocess.run(["sh", azure / "stillframe" / "post.sh"], check=True)
        connection.execute("INSERT INTO t VALUES (1)")
    # The script is answered first, and the report is written after.
    report = prefix / "var/lib/stillframe/reports/000001.json"
    give_up = time.monotonic() + 10
    while not report.exists() and time.monotonic() < give_up:
        time.sleep(0.02)
    assert '"achieved": "application"' in report.read_text(encoding="utf-8")
