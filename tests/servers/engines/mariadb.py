"""MariaDB as the distribution has it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers import mysqls, templates
from tests.servers.daemon import private_folder
from tests.servers.engine import Commit, Engine, Server
from tests.servers.mysqls import MySQLServer

USER = "mysql"
PROGRAMS = ("mariadbd", "mariadb", "mariadb-check", "mariadb-install-db")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PLUGINS = Path("/usr/lib/mysql/plugin")

OPTIONS = [
    "--skip-networking",
    "--log-bin=mysql-bin",
    "--sync-binlog=1",
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=32M",
    *(["--plugin-load-add=metadata_lock_info"] if (PLUGINS / "metadata_lock_info.so").exists() else []),
]


class MariaDB(Engine):
    """In one of the policy's modes."""

    policy = "mariadb"
    blocks = True

    def __init__(self, mode: str, *, main: bool = False) -> None:
        self.name = f"mariadb-{mode}"
        self.main = main
        self._mode = mode

    def missing(self) -> str:
        lacking = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
        return f"needs {', '.join(lacking)} (mariadb-server)" if lacking else ""

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        with self.instance(data, make) as server:
            yield server

    @contextlib.contextmanager
    def instance(self, data: Path, make: bool = True, *options: str) -> Iterator[MySQLServer]:
        """The same, with further options for the server."""
        settings = {"mode": self._mode, "server_options": ["--log-bin=mysql-bin"]}
        with private_folder("mariadb", USER) as folder:
            if make:
                templates.copied("mariadb", data, install)
            server = MySQLServer(data, folder, "/usr/bin/mariadb", "/usr/bin/mariadb-check", settings)
            argv = ["/usr/sbin/mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={server.socket}"]
            with mysqls.process(
                [*argv, f"--pid-file={folder}/pid", *OPTIONS, *options], user=USER, probe=server
            ):
                if make:
                    mysqls.make_tables(server)
                    server.make_keeper("RELOAD", "PROCESS", "BINLOG MONITOR", "CONNECTION ADMIN")
                yield server

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        return mysqls.commits(target)


def install(data: Path) -> None:
    """A new data folder, owned by the server's user."""
    data.mkdir(mode=0o700)
    shutil.chown(data, USER, USER)
    argv = ["mariadb-install-db", "--no-defaults", f"--user={USER}", f"--datadir={data}", "--skip-test-db"]
    argv += ["--auth-root-authentication-method=socket", "--innodb-log-file-size=32M"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


ENGINES = (MariaDB("stages", main=True), MariaDB("ftwrl"))
