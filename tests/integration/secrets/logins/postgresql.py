"""PostgreSQL by TCP: scram-sha-256, TLS with the server's name checked, and a password file."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tests import postgres
from tests.integration import clusters
from tests.integration.secrets import certificate
from tests.integration.secrets.certificate import ADDRESS
from tests.integration.secrets.login import Login, Wanted
from tests.servers.daemon import private_folder


class VerifyFull(Login):
    """Nobody gets in by the socket, nor without TLS."""

    name = "postgresql-tls"
    client: ClassVar[str] = "psql"
    wrong: ClassVar[str] = "password authentication failed"
    short: ClassVar[bool] = True

    def missing(self) -> str:
        if postgres.programs() is None or shutil.which("psql") is None:
            return "needs a PostgreSQL server and psql"
        return certificate.missing()

    @contextlib.contextmanager
    def wanting(self, canary: str, folder: Path) -> Iterator[Wanted]:
        with private_folder("pgtls", clusters.USER) as own:
            made = certificate.make(own, "server", clusters.USER)
            settings = (
                f"listen_addresses = '{ADDRESS}'\nfsync = off\nssl = on\nssl_cert_file = '{made.file}'\n"
            )
            settings += f"ssl_key_file = '{made.key}'\nlog_statement = none\n"
            with clusters.cluster(own / "data", settings=settings, log=own / "log") as server:
                quoted = canary.replace("'", "''")
                argv = ["psql", "-XqAt", server.conninfo]
                subprocess.run(argv, input=f"ALTER USER postgres PASSWORD '{quoted}'", text=True, check=True)
                (server.data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")
                clusters.as_server(server.programs / "pg_ctl", "-D", server.data, "reload")
                policy = f"""
extends = "postgresql"
[settings]
host = "{ADDRESS}"
port = {server.port}
[session]
files = {{ pgpass = "*:*:*:*:{{password:pgpass}}\\n" }}
[session.environment]
PGPASSFILE = "{{pgpass}}"
PGSSLMODE = "verify-full"
PGSSLROOTCERT = "{made.file}"
"""
                yield Wanted(policy, (own / "log", server.data))


LOGINS = (VerifyFull(),)
