"""MySQL 9 of Debian sid, in a folder."""

from __future__ import annotations

import contextlib
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers import debian, mysqls, templates
from tests.servers.daemon import private_folder
from tests.servers.engine import Commit, Engine, Server
from tests.servers.mysqls import KEEPER, MySQLServer

USER = "mysql"
PACKAGES = ("mysql-server-core", "mysql-client-core")
RIGHTS = ("RELOAD", "PROCESS", "REFERENCES", "BACKUP_ADMIN", "CONNECTION_ADMIN", "REPLICATION_SLAVE_ADMIN")

OPTIONS = [
    "--mysqlx=OFF",
    "--sync-binlog=1",
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-buffer-pool-size=64M",
    "--innodb-redo-log-capacity=64M",
    "--secure-file-priv=NULL",
]


class MySQL(Engine):
    """In one of the policy's modes."""

    policy = "mysql"
    megabytes = 1024

    def __init__(self, mode: str, *, main: bool = False) -> None:
        self.name = f"mysql-{mode}"
        self.main = main
        self.blocks = mode == "ftwrl"
        self._mode = mode

    def missing(self) -> str:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return f"needs the user {USER} (mariadb-server makes it)"
        root = debian.system("sid", *PACKAGES)
        return root if isinstance(root, str) else ""

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        with self.instance(data, make) as server:
            yield server

    @contextlib.contextmanager
    def instance(self, data: Path, make: bool = True, *options: str) -> Iterator[MySQLServer]:
        """The same, with further options for the server; on its socket only, where they name no port."""
        programs, places = _programs()
        network = [] if any(option.startswith("--port") for option in options) else ["--skip-networking"]
        with private_folder("mysql", USER) as folder:
            if make:
                templates.copied("mysql", data, install)
            settings = {
                "mode": self._mode,
                "client": str(programs / "mysql"),
                "server_options": places,
            }
            server = MySQLServer(
                data, folder, str(programs / "mysql"), str(programs / "mysqlcheck"), settings
            )
            argv: list[str | Path] = [
                programs / "mysqld",
                "--no-defaults",
                f"--datadir={data}",
                f"--socket={server.socket}",
            ]
            argv += [f"--pid-file={folder}/pid", *places, *OPTIONS, *network, *options]
            with mysqls.process(argv, user=USER, probe=server):
                if make:
                    mysqls.make_tables(server)
                    server.make_keeper(*RIGHTS)
                    server.query(f"GRANT SELECT ON performance_schema.* TO {KEEPER}@localhost")
                yield server

    def operator(self, server: Server, name: str = "", **settings: Any) -> str:
        return f'{super().operator(server, name, **settings)}[prove]\npath = ["{_programs()[0]}"]\n'

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        return mysqls.commits(target)


def install(data: Path) -> None:
    """A new data folder, owned by the server's user; its root has no password."""
    programs, places = _programs()
    data.mkdir(mode=0o700)
    shutil.chown(data, USER, USER)
    argv = [str(programs / "mysqld"), "--no-defaults", f"--datadir={data}", f"--user={USER}"]
    argv += ["--initialize-insecure", *places, *OPTIONS]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # A server that has no identity yet makes itself one: no two copies have the same.
    (data / "auto.cnf").unlink()


def _programs() -> tuple[Path, list[str]]:
    """The folder of the server's programs, and options that say where its other files are."""
    root = debian.system("sid", *PACKAGES)
    assert isinstance(root, Path), root
    server, *_ = [
        debian.program(root, f"/usr/{name}")
        for name in ("sbin/mysqld", "bin/mysql", "bin/mysqlcheck", "bin/mysqlbinlog")
    ]
    share = root / "usr/share/mysql"
    return server.parent, [
        f"--basedir={root}/usr",
        f"--lc-messages-dir={share}",
        f"--character-sets-dir={share}/charsets",
        f"--plugin-dir={root}/usr/lib/mysql/plugin",
    ]


ENGINES = (MySQL("instance", main=True), MySQL("ftwrl"))
