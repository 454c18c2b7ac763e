"""Every server that runs is found, and what detect writes for it holds and releases it with no edit.

Firebird's password is the one thing that nobody can see.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stage import Stage, stage
from tests.servers import debian
from tests.servers.conftest import full_form
from tests.servers.daemon import free_port, private_folder
from tests.servers.engine import Engine, Server
from tests.servers.engines import engines, mysql
from tests.servers.engines.mysql import USER

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

SHORT = ("etcd", "influxdb-online", "mariadb-stages", "openldap-online", "redis-aof", "sqlite-wal")
"""Those of the short form: they start quickly."""

NOT_SEEN = ("mysql-instance", "sqlite-delete")
"""MySQL's program is run by another system's loader there, and has a test of its own; of a database without
a write-ahead log no other file tells."""


def _engines() -> list[object]:
    """In the way that a policy begins with; Redis and Valkey with either kind of files."""
    chosen = [e for e in engines() if (e.main or e.policy in ("redis", "valkey")) and e.name not in NOT_SEEN]
    return [pytest.param(e, id=e.name, marks=[] if e.name in SHORT else [full_form]) for e in chosen]


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def of_server(found: list[dict[str, Any]], server: Server) -> list[dict[str, Any]]:
    """Others may run servers beside these tests: by the name of a folder of this one's."""
    own = re.findall(r"sf-[a-z]+-\w+", json.dumps(server.settings()))
    return [i for i in found if any(name in json.dumps(i["settings"]) for name in own)]


def held(here: Stage, path: Path) -> str:
    """The level that a hold by that policy achieves."""
    more = '[freeze]\nenabled = false\n[snapshot]\nprovider = "none"\nseconds = 0\n'
    path.write_text(f"{path.read_text()}\n{more}")
    status, report = here.run(path, seconds=120)
    assert status == 0, report["because"]
    return str(report["achieved"])


@pytest.mark.parametrize("engine", _engines())
def test_what_is_written_holds_the_server(engine: Engine, here: Stage) -> None:
    if missing := engine.missing():
        pytest.skip(f"{engine}: {missing}")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sf-found-", dir="/tmp")))
        folder.chmod(0o755)
        server = stack.enter_context(engine.server(folder / "data"))
        # A connection that stays: some servers have a database open only for as long as there is one.
        commits = engine.commits(server.target())
        commit = next(commits)
        commit(1)
        stack.callback(lambda: list(commits))
        status, output, errors = here.app("detect", "--json", "--out", here.folder / "out")
        assert status == 0, errors
        (instance,) = of_server(json.loads(output)["found"], server)
        assert instance["policy"] == engine.policy
        assert instance["running"]
        path = Path(instance["file"])
        text = path.read_text()
        if "password_file" in server.settings():
            text += f'password_file = "{server.settings()["password_file"]}"\n'
        path.write_text(text)
        assert held(here, path) == engine.level
        commit(2)
        assert server.contents().commits == {1, 2}


@full_form
def test_mysql_beside_packages_of_mariadb(here: Stage) -> None:
    """As a process of its own loader: the other system's /usr lies over ours, for it alone."""
    root = debian.system("sid", *mysql.PACKAGES)
    if isinstance(root, str):
        pytest.skip(root)
    script = f'mount --bind {root}/usr /usr && exec setpriv --reuid={USER} --regid={USER} --clear-groups "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", "/usr/sbin/mysqld", "--no-defaults"]
    with private_folder("mysql", USER) as folder, contextlib.ExitStack() as stack:
        argv.append(f"--datadir={folder}/data")
        subprocess.run([*argv, "--initialize-insecure"], check=True, capture_output=True)
        more = ["--secure-file-priv=NULL", f"--socket={folder}/z", f"--mysqlx-socket={folder}/a"]
        argv += [*more, "--bind-address=127.0.0.1", f"--port={free_port()}", f"--mysqlx-port={free_port()}"]
        process = stack.enter_context(subprocess.Popen(argv, stderr=subprocess.DEVNULL))
        stack.callback(process.terminate)
        give_up = time.monotonic() + 60
        while not (folder / "a").exists() or not (folder / "z").exists():
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.1)
        status, output, errors = here.app("detect", "--json", "--out", here.folder / "out")
        assert status == 0, errors
        (instance,) = [i for i in json.loads(output)["found"] if str(folder) in json.dumps(i["settings"])]
        assert (instance["policy"], instance["settings"]) == ("mysql", {"socket": f"{folder}/z"})
        assert held(here, Path(instance["file"])) == "application"
