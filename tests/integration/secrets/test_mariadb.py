"""An option file for MariaDB's client, in the place of the policy's own option."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.secrets.hiding import check_hidden, secret_file
from tests.integration.stage import Stage

pytestmark = [pytest.mark.integration, pytest.mark.root]


@pytest.fixture
def mariadb() -> Iterator[Path]:
    """The socket of a server whose root has no password yet."""
    programs = "/usr/sbin:/usr/bin"
    found = [shutil.which(name, path=programs) for name in ("mariadbd", "mariadb", "mariadb-install-db")]
    if not all(found):
        pytest.skip("needs mariadbd, mariadb and mariadb-install-db")
    with tempfile.TemporaryDirectory(prefix="sf-maria-", dir="/tmp") as folder:
        shutil.chown(folder, "mysql", "mysql")
        Path(folder).chmod(0o755)
        place = ["--no-defaults", f"--datadir={folder}/data", "--user=mysql"]
        make = ["mariadb-install-db", *place, "--skip-test-db", "--auth-root-authentication-method=normal"]
        subprocess.run(make, check=True, capture_output=True)
        options = [f"--socket={folder}/s", f"--pid-file={folder}/pid", "--skip-networking"]
        server = subprocess.Popen(["mariadbd", *place, *options], stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + 60
        while not Path(folder, "s").exists():
            assert server.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        yield Path(folder, "s")
        server.terminate()
        server.wait()


def test_an_option_file_for_mariadb(here: Stage, canary: str, mariadb: Path) -> None:
    """The client opens it by the name of its descriptor; argv is the shipped policy's own."""
    file = secret_file(here, canary)
    argv = ["mariadb", "--no-defaults", f"--socket={mariadb}", "--user=root"]
    quoted = canary.replace("\\", "\\\\").replace("'", "''")
    statement = f"SET PASSWORD FOR root@localhost = PASSWORD('{quoted}')"
    subprocess.run(argv, input=statement, text=True, check=True)
    policy = here.policy(
        f"""
        name = "shop"
        extends = "mariadb"
        [secrets.password]
        file = "{file}"
        [settings]
        socket = "{mariadb}"
        [session]
        files = {{ option_file = "[client]\\npassword={{password:json}}\\n" }}
        [timing]
        quiesce = 20
        retries = 0
        hold = 20
        release = 10
        [freeze]
        enabled = false
        [snapshot]
        provider = "none"
        seconds = 1
        """
    )
    cycle = here.start("run", "--json", policy)
    cycle.when("snapshot_begin")
    check_hidden(here, cycle, canary, held=True)
    assert cycle.wait() == 0, cycle.output + cycle.errors
    check_hidden(here, cycle, canary, held=False)
    assert here.reports()[0]["achieved"] == "application"
