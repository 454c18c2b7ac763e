"""InfluxDB with authentication: its policy needs no password, with ``ask = false``."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from tests.integration.secrets.login import Login, Wanted
from tests.servers.daemon import free_port, private_folder, running, wait_for
from tests.servers.engines.influxdb import CONFIGURATION, USER, Http, InfluxDB

_POLICY = """
extends = "influxdb"
[settings]
mode = "backup"
folder = "{data}"
backup_address = "{control}"
ask = false
"""


class Backup(Login):
    """``influxd backup`` asks at an address of its own. (In the mode ``online`` nobody is asked.)"""

    name = "influxdb-backup"
    client: ClassVar[str] = "influxd"
    session: ClassVar[bool] = False

    def canary(self) -> str:
        """In InfluxQL a backslash means something."""
        return super().canary().replace("\\", "/")

    def missing(self) -> str:
        return InfluxDB().missing()

    @contextlib.contextmanager
    def wanting(self, canary: str, folder: Path) -> Iterator[Wanted]:
        with private_folder("influx", USER) as own:
            address, control, log = own / "socket", f"127.0.0.1:{free_port()}", own / "log"
            text = CONFIGURATION.format(data=own, address=address, control=control)
            (own / "influxdb.conf").write_text(f"{text}  auth-enabled = true\n")
            argv = ["influxd", "run", "-config", str(own / "influxdb.conf")]
            with running(argv, USER, log, {"HOME": str(own)}) as process:
                wait_for(lambda: _ask(address, canary), process, log, (OSError, http.client.HTTPException))
                with (
                    contextlib.closing(Http(str(address))) as one,
                    pytest.raises(ConnectionError, match="401"),
                ):
                    one.query("SHOW DIAGNOSTICS")
                yield Wanted(_POLICY.format(data=own, control=control), (own,))


def _ask(address: Path, password: str) -> None:
    """Create the first user, who is the only one that may be created without a password."""
    quoted = password.replace("'", "\\'")
    with contextlib.closing(Http(str(address))) as connection:
        connection.query(f"CREATE USER keeper WITH PASSWORD '{quoted}' WITH ALL PRIVILEGES")


LOGINS = (Backup(),)
