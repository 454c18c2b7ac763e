"""A password file for psql."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres
from tests.integration import clusters
from tests.integration.secrets.hiding import check_hidden, secret_file, written
from tests.integration.stage import Stage

pytestmark = [pytest.mark.integration, pytest.mark.root]


@pytest.fixture(scope="module")
def locked_postgres() -> Iterator[postgres.Postgres]:
    """A server that wants a password from everybody; it is set by ``lock``."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if postgres.programs() is None or shutil.which("psql") is None:
        pytest.skip("needs a PostgreSQL server and psql")
    with tempfile.TemporaryDirectory(prefix="stillframe-secrets-", dir="/dev/shm") as folder:
        Path(folder).chmod(0o755)
        with clusters.cluster(Path(folder, "pg"), settings="fsync = off") as server:
            yield server


@contextlib.contextmanager
def locked(server: postgres.Postgres, password: str) -> Iterator[None]:
    access = server.data / "pg_hba.conf"
    before = access.read_text()
    quoted = password.replace("'", "''")
    argv = ["psql", "-XqAt", server.conninfo]
    subprocess.run(argv, input=f"ALTER USER postgres PASSWORD '{quoted}'", text=True, check=True)
    access.write_text("local all all scram-sha-256\n")
    server_pid = int((server.data / "postmaster.pid").read_text().split()[0])
    os.kill(server_pid, signal.SIGHUP)
    time.sleep(0.3)
    try:
        yield
    finally:
        access.write_text(before)
        os.kill(server_pid, signal.SIGHUP)
        time.sleep(0.3)


def postgres_policy(here: Stage, server: postgres.Postgres, source: str, seconds: float) -> Path:
    return here.policy(
        f"""
        name = "orders"
        extends = "postgresql"
        [secrets.password]
        {source}
        [settings]
        host = "{server.socket}"
        [session]
        files = {{ pgpass = "*:*:*:*:{{password:pgpass}}\\n" }}
        [session.environment]
        PGPASSFILE = "{{pgpass}}"
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
        f"orders-{seconds}",
    )


def test_a_password_file_for_psql(here: Stage, canary: str, locked_postgres: postgres.Postgres) -> None:
    with locked(locked_postgres, canary):
        file = secret_file(here, canary)
        cycle = here.start("run", "--json", postgres_policy(here, locked_postgres, f'file = "{file}"', 1))
        cycle.when("snapshot_begin")
        check_hidden(here, cycle, canary, held=True)
        client = cycle.pid("client")
        links = [os.readlink(path) for path in Path(f"/proc/{client}/fd").iterdir()]
        assert "/memfd:pgpass (deleted)" in links
        assert cycle.wait() == 0, cycle.output + cycle.errors
        check_hidden(here, cycle, canary, held=False)
    (report,) = here.reports()
    assert report["achieved"] == "application"
    assert report["applications"][0]["saved"]["backup_label"]
    assert sorted(os.listdir(here.paths.run)) == ["journal", "lock", "plan.json"]


def test_a_wrong_password_is_named_nowhere(
    here: Stage, canary: str, locked_postgres: postgres.Postgres
) -> None:
    with locked(locked_postgres, "another one"):
        file = secret_file(here, canary)
        cycle = here.start("run", "--json", postgres_policy(here, locked_postgres, f'file = "{file}"', 0))
        assert cycle.wait() != 0
        assert "password authentication failed" in cycle.output
        check_hidden(here, cycle, canary, held=False)


@pytest.mark.parametrize("who", ["keeper", "holder", "watchdog", "client"])
def test_nothing_is_left_when_one_is_killed(
    here: Stage, canary: str, locked_postgres: postgres.Postgres, who: str
) -> None:
    with locked(locked_postgres, canary):
        file = secret_file(here, canary)
        cycle = here.start("run", "--json", postgres_policy(here, locked_postgres, f'file = "{file}"', 5))
        victim = cycle.pid(who)
        cycle.when("snapshot_begin")
        os.kill(victim, signal.SIGKILL)
        cycle.wait(15)
        here.wait_until_free(5)
        check_hidden(here, cycle, canary, held=False)
        assert sorted(os.listdir(here.paths.run)) == ["journal", "lock", "plan.json"]


def test_the_compiled_files_name_the_place_only(
    here: Stage, canary: str, locked_postgres: postgres.Postgres
) -> None:
    file = secret_file(here, canary)
    policy = postgres_policy(here, locked_postgres, f'file = "{file}"', 0)
    out = here.folder / "out"
    out.mkdir()
    assert here.app("compile", policy, "--root", out)[0] == 0
    assert written(canary[-22:].encode(), out, but=file) == []
    plan = json.loads((out / "etc/azure/stillframe/plan.json").read_text())
    assert plan["applications"][0]["secrets"]["password"]["file"] == str(file)
    status, text, _ = here.app("explain", policy)
    assert (status, canary[-22:] in text) == (0, False)
    assert f"secret password from the file {file}" in " ".join(text.split())
