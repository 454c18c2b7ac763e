"""Servers that run for real are found; what is written about them compiles, and a hold succeeds by it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import postgres
from tests.integration.stage import Stage, stage

pytestmark = [pytest.mark.integration]


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def found(here: Stage, *words: str) -> dict[str, Any]:
    status, output, errors = here.app("detect", "--json", *words)
    assert status == 0, errors
    answer: dict[str, Any] = json.loads(output)
    return answer


def mine(answer: dict[str, Any], mark: str) -> list[dict[str, Any]]:
    """Others may run servers beside these tests."""
    return [i for i in answer["found"] if mark in json.dumps(i["settings"]) + json.dumps(i["evidence"])]


@pytest.fixture
def clusters(here: Stage) -> Iterator[list[postgres.Postgres]]:
    if os.geteuid() != 0 or postgres.programs() is None:
        pytest.skip("needs root and a PostgreSQL server")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(postgres.server(here.folder / name)) for name in ("one", "two")]


def test_two_clusters_two_policies_and_a_hold_by_each(here: Stage, clusters: list[postgres.Postgres]) -> None:
    out = here.folder / "out"
    answer = found(here, "--out", str(out))
    for cluster in clusters:
        (instance,) = mine(answer, str(cluster.socket))
        assert instance["policy"] == "postgresql"
        assert instance["settings"] == {"host": str(cluster.socket)}
        path = Path(instance["file"])
        assert path.stat().st_mode & 0o777 == 0o600
        path.write_text(
            path.read_text() + '\n[freeze]\nenabled = false\n\n[snapshot]\nprovider = "none"\nseconds = 0\n'
        )
        status, report = here.run(path)
        assert (status, report["achieved"]) == (0, "application"), report["because"]
    status, _, errors = here.app("validate", *out.glob("*.toml"))
    assert status == 0, errors


def test_nothing_is_overwritten_and_nothing_else_written(
    here: Stage, clusters: list[postgres.Postgres]
) -> None:
    out = here.folder / "out"
    (instance, *_) = mine(found(here, "--out", str(out)), str(clusters[0].socket))
    first = {path.name: path.read_text() for path in out.iterdir()}
    kept = Path(instance["file"])
    for path in out.iterdir():
        if path != kept:
            path.unlink()
    status, _, errors = here.app("detect", "--out", out)
    assert status == 4
    assert "never overwritten" in errors
    assert [path.name for path in out.iterdir()] == [kept.name]
    assert kept.read_text() == first[kept.name]
    kept.unlink()
    (out / kept.name).symlink_to(here.folder / "elsewhere")
    assert here.app("detect", "--out", out)[0] == 4
    assert not (here.folder / "elsewhere").exists()


def test_without_out_nothing_is_written(here: Stage) -> None:
    before = sorted(here.folder.rglob("*"))
    status, output, _ = here.app("detect")
    assert status == 0
    assert output
    after = [
        path for path in sorted(here.folder.rglob("*")) if path.name not in ("output", "errors", "prefix")
    ]
    assert after == [path for path in before if path.name not in ("output", "errors", "prefix")]


def test_sqlite_is_found_by_its_wal(here: Stage) -> None:
    path = here.folder / "an 'odd' \"name\".db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (x)")
        database.commit()
        (instance,) = mine(found(here), "odd")
    assert str(path) in instance["settings"]["databases"]
    assert not mine(found(here), "odd")


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_redis_and_valkey_by_socket_and_port(here: Stage, kind: str) -> None:
    program = shutil.which(f"{kind}-server")
    if program is None:
        pytest.skip(f"needs {kind}-server")
    address = here.folder / "redis.sock"
    argv = [program, "--port", "0", "--unixsocket", str(address), "--dir", str(here.folder), "--save", ""]
    server = subprocess.Popen([*argv, "--appendonly", "yes"], stdout=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 10
        while not address.exists():
            assert time.monotonic() < give_up
            time.sleep(0.02)
        (instance,) = mine(found(here), str(address))
        assert instance["policy"] == kind
        assert instance["settings"]["connect"] == ["-s", str(address)]
        assert instance["settings"]["appendonly"] == "yes"
    finally:
        server.kill()
        server.wait()


def test_an_unprivileged_look_says_what_it_did_not_see(here: Stage) -> None:
    if os.geteuid() != 0:
        assert any("not root" in sentence for sentence in found(here)["not_seen"])
        return
    reader = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    here.skip_unless_started_by(reader)
    done = subprocess.run(
        [*reader, *here.command, "detect", "--json"], capture_output=True, text=True, cwd="/", timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert any("not root" in sentence for sentence in json.loads(done.stdout)["not_seen"])


def test_an_image_made_of_packages(here: Stage, tmp_path: Path) -> None:
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text("Package: redis-server\nStatus: install ok installed\nVersion: 1\n")
    answer = found(here, "--root", str(tmp_path), "--out", str(here.folder / "out"))
    assert [i["name"] for i in answer["found"]] == ["redis"]
    assert here.app("validate", here.folder / "out/redis.toml")[0] == 0
    assert here.app("detect", "--root", tmp_path / "none")[0] == 2
