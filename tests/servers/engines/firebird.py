"""Firebird 3 as the distribution has it: a private server (SuperServer) with one database."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers import sql
from tests.servers.daemon import free_port, private_folder, running, wait_for
from tests.servers.engine import Commit, Contents, Engine, Server
from tests.servers.transfers import START, accounts

USER = "firebird"
FILE = "bank.fdb"
PASSWORD = "only-here"
SECURITY = Path("/var/lib/firebird/3.0/system/security3.fdb")
PROGRAMS = ("firebird", "isql-fb", "fbstat", "nbackup", "gfix")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_CONFIGURATION = """
RemoteServicePort = {port}
RemoteBindAddress = 127.0.0.1
ServerMode = Super
SecurityDatabase = {root}/security3.fdb
UdfAccess = None
"""

_TABLES = (
    "CREATE TABLE ledger (number BIGINT NOT NULL PRIMARY KEY, body VARCHAR(255))",
    "CREATE TABLE accounts (id INTEGER NOT NULL PRIMARY KEY, balance BIGINT NOT NULL)",
    *(f"INSERT INTO accounts (id, balance) VALUES ({number}, {START})" for number in accounts()),
    "COMMIT",
)


class Failed(Exception):
    """What isql said."""


def isql(argv: list[str], text: str, environ: dict[str, str] | None = None) -> str:
    """What isql says, as the server's user. Raises Failed."""
    done = subprocess.run(
        ["isql-fb", "-q", "-bail", "-user", "SYSDBA", *argv],
        input=f"SET HEADING OFF;\n{text}\n",
        capture_output=True,
        text=True,
        user=USER,
        group=USER,
        extra_groups=[],
        cwd="/",
        env={"PATH": PATH, **(environ or {})},
    )
    if done.returncode or "Statement failed" in done.stderr:
        raise Failed(f"{done.returncode}: {done.stdout} {done.stderr}")
    return done.stdout


def validate(*where: str) -> str:
    """What gfix finds in a database: nothing, errors, or warnings of space that a crash left unused."""
    argv = ["gfix", "-v", "-full", "-user", "SYSDBA", *where]
    done = subprocess.run(argv, capture_output=True, text=True, user=USER, group=USER, env={"PATH": PATH})
    assert done.returncode == 0, done
    return done.stdout + done.stderr


class FirebirdServer(Server):
    """One server with one database."""

    def __init__(self, data: Path, folder: Path, secret: Path, port: int) -> None:
        self.data = data
        self.file = data / FILE
        self.password_file = folder / "password"
        self.secret = secret
        self.port = port

    @property
    def client(self) -> list[str]:
        """Arguments of isql that reach it."""
        where = f"localhost/{self.port}:{self.file}"
        return ["-fetch_password", str(self.password_file), where]

    def settings(self) -> dict[str, Any]:
        where = {"file": str(self.file), "server": f"localhost/{self.port}"}
        return {**where, "password_file": str(self.secret)}

    def target(self) -> dict[str, Any]:
        return {"client": self.client}

    def contents(self) -> Contents:
        return sql.contents(self._rows)

    def check(self) -> None:
        said = validate(*self.client)
        assert not re.search(r"errors\s+: [1-9]", said), said

    def break_hold(self) -> str:
        assert (self.data / f"{FILE}.delta").exists()
        isql(self.client, "ALTER DATABASE END BACKUP;")
        return r"MON\$BACKUP_STATE"

    def _rows(self, query: str) -> list[list[str]]:
        columns = query.removeprefix("SELECT ").replace(", ", " || '|' || ", 1)
        said = isql(self.client, f"SELECT {columns};")
        return [line.strip().split("|") for line in said.splitlines() if line.strip()]


def _own_root(folder: Path, port: int) -> Path:
    """A root folder of Firebird's: all as it is installed, but for the configuration and the users."""
    (installed,) = Path("/usr/lib").glob("*/firebird/3.0")
    root = folder / "root"
    root.mkdir()
    for name in ("UDF", "firebird.msg", "intl", "lib", "plugins", "plugins.conf", "fbtrace.conf"):
        (root / name).symlink_to(installed / name)
    (root / "databases.conf").touch()
    (root / "firebird.conf").write_text(_CONFIGURATION.format(port=port, root=root))
    shutil.copy(SECURITY, root / "security3.fdb")
    for path in (root, root / "security3.fdb"):
        shutil.chown(path, USER, USER)
    return root


class Firebird(Engine):
    """In physical backup mode."""

    name = "firebird"
    policy = "firebird"
    blocks = False
    main = True

    def missing(self) -> str:
        lacking = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
        if lacking:
            return f"needs {' and '.join(lacking)}"
        return "" if SECURITY.exists() else f"needs {SECURITY}"

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        with private_folder("firebird", USER) as folder, tempfile.TemporaryDirectory() as of_root:
            if make:
                data.mkdir(mode=0o700)
                shutil.chown(data, USER, USER)
            port = free_port()
            root = _own_root(folder, port)
            environ = {"FIREBIRD": str(root), "FIREBIRD_LOCK": str(folder), "FIREBIRD_TMP": str(folder)}
            first = f"CREATE OR ALTER USER SYSDBA PASSWORD '{PASSWORD}'; COMMIT;"
            isql([str(root / "security3.fdb")], first, environ)
            if make:
                isql([], f"CREATE DATABASE '{data / FILE}'; COMMIT;", environ)
            server = FirebirdServer(data, folder, Path(of_root) / "password", port)
            for file, owner in ((server.password_file, USER), (server.secret, "root")):
                file.write_text(f"{PASSWORD}\n")
                file.chmod(0o600)
                shutil.chown(file, owner, owner)
            # Once a client was killed it does not end on SIGTERM, and all that it acknowledged is on disk.
            with running(["firebird"], USER, folder / "log", environ, seconds=2) as process:
                wait_for(
                    lambda: isql(server.client, "SELECT 1 FROM RDB$DATABASE;"),
                    process,
                    folder / "log",
                    (Failed,),
                )
                if make:
                    isql(server.client, "".join(f"{statement};\n" for statement in _TABLES))
                yield server

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        argv = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        argv += ["isql-fb", "-q", "-bail", "-user", "SYSDBA", *target["client"]]
        with contextlib.closing(sql.Client(argv)) as client:
            client.type("SET HEADING OFF;\n")

            def commit(number: int) -> None:
                text = ";\n".join((*sql.statements(number), "COMMIT"))
                client.type(f"{text};\nSELECT 'ok {number}' FROM RDB$DATABASE;\nCOMMIT;\n")
                said = ""
                while not said:  # an empty line stands around every answer
                    said = client.line().strip()
                if said != f"ok {number}":
                    raise ConnectionError(f"isql said {said!r} to {number}")

            yield commit


ENGINES = (Firebird(),)
