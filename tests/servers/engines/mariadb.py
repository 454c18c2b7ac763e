"""MariaDB as the distribution has it, and a later one of Debian sid, in a folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import debian, mysqls, templates
from tests.servers.daemon import private_folder
from tests.servers.engine import Commit, Engine, Server
from tests.servers.mysqls import MySQLServer

USER = "mysql"
PROGRAMS = ("mariadbd", "mariadb", "mariadb-check", "mariadb-install-db")
PACKAGES = ("mariadb-server-core", "mariadb-client-core")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PLUGINS = Path("/usr/lib/mysql/plugin")

OPTIONS = [
    "--skip-networking",
    "--log-bin=mysql-bin",
    "--sync-binlog=1",
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=32M",
]

_INSTALL = ["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=socket", OPTIONS[-1]]


@dataclass(frozen=True, slots=True)
class Programs:
    """A server's programs, and options that say where its other files are."""

    server: Path
    client: Path
    checker: Path
    places: tuple[str, ...]


class MariaDB(Engine):
    """In one of the policy's modes; the distribution's own, or that of another Debian ``suite``."""

    policy = "mariadb"
    blocks = True

    def __init__(self, mode: str, suite: str = "", *, main: bool = False) -> None:
        self.name = f"mariadb-{suite}-{mode}" if suite else f"mariadb-{mode}"
        self.main = main
        self._mode = mode
        self._suite = suite

    def missing(self) -> str:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return f"needs the user {USER} (mariadb-server makes it)"
        if self._suite:
            root = debian.system(self._suite, *PACKAGES)
            return root if isinstance(root, str) else ""
        lacking = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
        return f"needs {', '.join(lacking)} (mariadb-server)" if lacking else ""

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        with self.instance(data, make) as server:
            yield server

    @contextlib.contextmanager
    def instance(self, data: Path, make: bool = True, *options: str) -> Iterator[MySQLServer]:
        """The same, with further options for the server."""
        programs = self._programs()
        settings: dict[str, Any] = {
            "mode": self._mode,
            "server_options": ["--log-bin=mysql-bin", *programs.places],
            **({"client": str(programs.client)} if self._suite else {}),
        }
        with private_folder("mariadb", USER) as folder:
            if make:
                templates.copied(f"mariadb{self._suite}", data, self._install)
            server = MySQLServer(data, folder, str(programs.client), str(programs.checker), settings)
            argv: list[str | Path] = [
                programs.server,
                "--no-defaults",
                f"--datadir={data}",
                f"--socket={server.socket}",
            ]
            argv += [f"--pid-file={folder}/pid", *programs.places, *OPTIONS]
            if not self._suite and (PLUGINS / "metadata_lock_info.so").exists():
                argv.append("--plugin-load-add=metadata_lock_info")
            with mysqls.process([*argv, *options], user=USER, probe=server):
                if make:
                    mysqls.make_tables(server)
                    server.make_keeper("RELOAD", "PROCESS", "BINLOG MONITOR", "CONNECTION ADMIN")
                yield server

    def operator(self, server: Server, name: str = "", **settings: Any) -> str:
        head = super().operator(server, name, **settings)
        return f'{head}[prove]\npath = ["{self._programs().server.parent}"]\n' if self._suite else head

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        return mysqls.commits(target)

    def _programs(self) -> Programs:
        if not self._suite:
            return Programs(
                Path("/usr/sbin/mariadbd"), Path("/usr/bin/mariadb"), Path("/usr/bin/mariadb-check"), ()
            )
        root = self._root()
        server, client, checker = (
            debian.program(root, f"/usr/{name}")
            for name in ("sbin/mariadbd", "bin/mariadb", "bin/mariadb-check")
        )
        share = root / "usr/share/mariadb"
        places = (
            f"--basedir={root}/usr",
            f"--lc-messages-dir={share}",
            f"--character-sets-dir={share}/charsets",
        )
        return Programs(server, client, checker, places)

    def _install(self, data: Path) -> None:
        """A new data folder, owned by the server's user."""
        if self._suite:
            made = Path("/var/tmp") / f"made-{os.getpid()}"
            done = debian.inside(
                self._root(), ["mariadb-install-db", *_INSTALL, "--user=root", f"--datadir={made}"]
            )
            assert done.returncode == 0, done.stdout + done.stderr
            shutil.move(self._root() / made.relative_to("/"), data)
            subprocess.run(["chown", "--recursive", f"{USER}:{USER}", data], check=True)
            return
        data.mkdir(mode=0o700)
        shutil.chown(data, USER, USER)
        argv = ["mariadb-install-db", *_INSTALL, f"--user={USER}", f"--datadir={data}"]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def _root(self) -> Path:
        root = debian.system(self._suite, *PACKAGES)
        assert isinstance(root, Path), root
        return root


STAGES, LOCK = MariaDB("stages", main=True), MariaDB("ftwrl")

ENGINES = (
    STAGES,
    LOCK,
    *([MariaDB("stages", "sid")] if os.environ.get("STILLFRAME_TEST_SERVERS") == "full" else []),
)
