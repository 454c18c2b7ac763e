"""MySQL 9, whose users have caching_sha2_password: on its socket, and by TCP."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tests.integration.secrets.login import Login, Wanted
from tests.servers.daemon import free_port
from tests.servers.engines.mysql import MySQL
from tests.servers.mysqls import CLIENT, KEEPER, MySQLServer


class BySecret(Login):
    """The client finds the password in a private file, in the place of its option file."""

    client: ClassVar[str] = "mysql"
    wrong: ClassVar[str] = "ERROR 1045 "

    def __init__(self, host: str) -> None:
        self.name = f"mysql-{'socket' if host == 'localhost' else 'tcp'}"
        self._host = host

    def missing(self) -> str:
        return MySQL("instance").missing()

    @contextlib.contextmanager
    def wanting(self, canary: str, folder: Path) -> Iterator[Wanted]:
        engine, port = MySQL("instance"), free_port()
        options = ["--bind-address=127.0.0.1", f"--port={port}"]
        with engine.instance(folder / "data", True, *options) as server:
            _lock(server, canary)
            yield Wanted(self._policy(engine, server, port, canary), (server.folder / "log", server.data))

    def _policy(self, engine: MySQL, server: MySQLServer, port: int, canary: str) -> str:
        head = engine.operator(server, host=self._host, port=port).partition("\n")[2]
        return head + '[session]\nfiles = { option_file = "[client]\\npassword={password:json}\\n" }\n'


class ByOptionFile(BySecret):
    """The file is the operator's own, and none of our business."""

    wrong: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__("127.0.0.1")
        self.name = "mysql-option-file"

    def _policy(self, engine: MySQL, server: MySQLServer, port: int, canary: str) -> str:
        file = Path(server.settings()["option_file"])
        file.write_text(f"[client]\npassword={json.dumps(canary, ensure_ascii=False)}\n")
        return engine.operator(server, host=self._host, port=port).partition("\n")[2]


def _lock(server: MySQLServer, password: str) -> None:
    """Give the keeper that password, wherever it comes from."""
    quoted = password.replace("\\", "\\\\").replace("'", "''")
    text = (
        f"RENAME USER {KEEPER}@localhost TO {KEEPER}@'%';\nALTER USER {KEEPER}@'%' IDENTIFIED BY '{quoted}';"
    )
    argv = [server.client, *CLIENT, f"--socket={server.socket}", "--user=root"]
    subprocess.run(argv, input=text, text=True, check=True, capture_output=True)
    plugin = server.query(f"SELECT plugin FROM mysql.user WHERE user = '{KEEPER}'").strip()
    assert plugin == "caching_sha2_password"


LOGINS = (BySecret("localhost"), BySecret("127.0.0.1"), ByOptionFile())
