"""InfluxDB 1 as the distribution has it. It has no transactions: a commit is one write of three points."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from tests.servers.daemon import free_port, private_folder, running, wait_for
from tests.servers.engine import Commit, Contents, Engine, Server
from tests.servers.transfers import BODY, START, Transfer, accounts, broken

USER = "influxdb"
DATABASE = "bank"

CONFIGURATION = """
reporting-enabled = false
bind-address = "{control}"
[meta]
  dir = "{data}/meta"
[data]
  dir = "{data}/data"
  wal-dir = "{data}/wal"
  query-log-enabled = false
[http]
  bind-address = "127.0.0.1:0"
  unix-socket-enabled = true
  bind-socket = "{address}"
  log-enabled = false
"""


class Http(http.client.HTTPConnection):
    """The server's HTTP interface, on its socket."""

    def __init__(self, address: str) -> None:
        super().__init__("localhost", timeout=60)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._address)
        except OSError:
            self.sock.close()
            raise

    def write(self, lines: list[str]) -> None:
        """Write points. Raises ConnectionError unless they are acknowledged."""
        self._speak("POST", f"/write?db={DATABASE}", "\n".join(lines), 204)

    def query(self, text: str) -> list[dict[str, Any]]:
        """The series of the answer, times as integers. Raises ConnectionError."""
        parameters = urllib.parse.urlencode({"db": DATABASE, "q": text, "epoch": "ns"})
        answer = json.loads(self._speak("POST", f"/query?{parameters}", "", 200))
        (result,) = answer["results"]
        if "error" in result:
            raise ConnectionError(result["error"])
        found: list[dict[str, Any]] = result.get("series", [])
        return found

    def _speak(self, method: str, path: str, body: str, status: int) -> bytes:
        self.request(method, path, body)
        answer = self.getresponse()
        text = answer.read()
        if answer.status != status:
            raise ConnectionError(f"{answer.status}: {text[:500]!r}")
        return text


class InfluxServer(Server):
    """One influxd."""

    def __init__(self, data: Path, address: Path, control: str, mode: str) -> None:
        self.data = data
        self.address = address
        self.control = control
        self._mode = mode

    def settings(self) -> dict[str, Any]:
        return {
            "mode": self._mode,
            "folder": str(self.data),
            "connect": ["-socket", str(self.address)],
            "backup_address": self.control,
        }

    def target(self) -> dict[str, Any]:
        return {"address": str(self.address)}

    def query(self, text: str) -> list[dict[str, Any]]:
        """The answer of a new connection. Raises ConnectionError, OSError, HTTPException."""
        with contextlib.closing(Http(str(self.address))) as connection:
            return connection.query(text)

    def contents(self) -> Contents:
        commits = {row[0] for series in self.query("SELECT body FROM ledger") for row in series["values"]}
        found = balances(self.query("SELECT last(balance) FROM accounts GROUP BY id"))
        return Contents(commits, broken(commits, found))

    def check(self) -> None:
        """Every block of every shard is read; influx_inspect is not in the distribution's packages."""
        counted = self.query("SELECT count(*) FROM /.*/")
        assert {series["name"] for series in counted} == {"accounts", "ledger"}

    def break_hold(self) -> str:
        argv = [
            "influxd",
            "backup",
            "-portable",
            "-host",
            self.control,
            str(self.data / "stillframe-backup"),
        ]
        subprocess.run(argv, check=True, capture_output=True, user=USER)
        return "find . -type f"


def balances(series: list[dict[str, Any]]) -> dict[int, int]:
    """What every account has."""
    return {int(each["tags"]["id"]): int(each["values"][0][1]) for each in series}


class InfluxDB(Engine):
    """Nothing stands still, and nothing is claimed for it."""

    policy = "influxdb"
    level: ClassVar[str] = "filesystem"
    clients = ("holder", "keeper")
    unbreakable = "nothing of the server is held"
    blocks = False
    mode = "online"
    name = "influxdb-online"
    main = True

    def missing(self) -> str:
        lacking = [name for name in ("influxd", "influx") if shutil.which(name) is None]
        return f"needs {' and '.join(lacking)}" if lacking else ""

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        with private_folder("influx", USER) as folder:
            if make:
                data.mkdir(mode=0o700)
                shutil.chown(data, USER, USER)
            address, control = folder / "socket", f"127.0.0.1:{free_port()}"
            text = CONFIGURATION.format(data=data, address=address, control=control)
            (folder / "influxdb.conf").write_text(text)
            argv = ["influxd", "run", "-config", str(folder / "influxdb.conf")]
            with running(argv, USER, folder / "log", {"HOME": str(folder)}) as process:
                server = InfluxServer(data, address, control, self.mode)
                wait_for(
                    lambda: server.query("SHOW DATABASES"),
                    process,
                    folder / "log",
                    (OSError, http.client.HTTPException),
                )
                if make:
                    server.query(f"CREATE DATABASE {DATABASE}")
                    with contextlib.closing(Http(str(address))) as connection:
                        connection.write([f"accounts,id={n} balance={START}i 0" for n in accounts()])
                yield server

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        with contextlib.closing(Http(target["address"])) as connection:
            # No other writer has these accounts.
            now = balances(connection.query("SELECT last(balance) FROM accounts GROUP BY id"))

            def commit(number: int) -> None:
                transfer = Transfer.of(number)
                now[transfer.source] -= transfer.amount
                now[transfer.target] += transfer.amount
                lines = [f'ledger body="{BODY}" {number}']
                touched = (transfer.source, transfer.target)
                lines += [f"accounts,id={account} balance={now[account]}i {number}" for account in touched]
                connection.write(lines)

            yield commit


class Backup(InfluxDB):
    """Its own backup lies in the snapshot."""

    level: ClassVar[str] = "application"
    unbreakable = ""
    mode = "backup"
    name = "influxdb-backup"
    main = False


ENGINES = (InfluxDB(), Backup())
