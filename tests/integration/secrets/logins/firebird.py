"""Firebird's SYSDBA, over TCP."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tests.integration.secrets.login import Login, Wanted
from tests.servers.engines.firebird import Firebird, FirebirdServer, isql


class Sysdba(Login):
    """isql reads it from a private file, as the shipped policy says."""

    name = "firebird"
    client: ClassVar[str] = "isql-fb"
    wrong: ClassVar[str] = "SQLSTATE = 28000"
    short: ClassVar[bool] = True

    def canary(self) -> str:
        """SYSDBA's are made of ASCII."""
        return f'it\'s "{{x}}" {os.urandom(4).hex()}canary'

    def missing(self) -> str:
        return Firebird().missing()

    @contextlib.contextmanager
    def wanting(self, canary: str, folder: Path) -> Iterator[Wanted]:
        engine = Firebird()
        with engine.server(folder / "data") as server:
            assert isinstance(server, FirebirdServer)
            quoted = canary.replace("'", "''")
            isql(server.client, f"ALTER USER SYSDBA PASSWORD '{quoted}'; COMMIT;")
            where = f'[settings]\nfile = "{server.file}"\nserver = "localhost/{server.port}"\n'
            log = server.password_file.with_name("log")
            yield Wanted(f'extends = "firebird"\n{where}', (log, server.data))


LOGINS = (Sysdba(),)
