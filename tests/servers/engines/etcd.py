"""etcd as the distribution has it: one member, reached through its sockets."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers.daemon import private_folder, running, wait_for
from tests.servers.engine import Commit, Contents, Engine, Server
from tests.servers.transfers import BODY, START, Transfer, accounts, broken

USER = "etcd"


class Gateway(http.client.HTTPConnection):
    """The member's own JSON gateway, on its client socket."""

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

    def ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of ``/v3/kv/...``. Raises ConnectionError where it is not 200."""
        self.request("POST", f"/v3/kv/{what}", json.dumps(body))
        answer = self.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise ConnectionError(f"{answer.status}: {text[:500]!r}")
        found: dict[str, Any] = json.loads(text)
        return found

    def below(self, prefix: str) -> dict[str, str]:
        """All keys that begin so, without their beginning, and their values."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        found = self.ask("range", {"key": _coded(prefix), "range_end": _coded(end)})
        pairs = [(_plain(pair["key"]), _plain(pair["value"])) for pair in found.get("kvs", [])]
        return {key.removeprefix(prefix): value for key, value in pairs}

    def put_all(self, pairs: dict[str, str]) -> None:
        """Put those in one transaction."""
        puts = [{"requestPut": {"key": _coded(k), "value": _coded(v)}} for k, v in pairs.items()]
        assert self.ask("txn", {"success": puts})["succeeded"]


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _plain(text: str) -> str:
    return base64.b64decode(text).decode()


class EtcdServer(Server):
    """One member."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data = data
        self.address = folder / "client:1"

    @property
    def endpoints(self) -> str:
        """The option of etcdctl that reaches it."""
        return f"--endpoints=unix://{self.address}"

    def settings(self) -> dict[str, Any]:
        return {"connect": [self.endpoints], "data_dir": str(self.data), "etcdutl": offline()}

    def target(self) -> dict[str, Any]:
        return {"address": str(self.address)}

    def contents(self) -> Contents:
        with contextlib.closing(Gateway(str(self.address))) as gateway:
            commits = set(map(int, gateway.below("ledger/")))
            balances = {int(key): int(value) for key, value in gateway.below("accounts/").items()}
        return Contents(commits, broken(commits, balances))

    def check(self) -> None:
        """Its backup of the running member is read through: pages, keys, and the whole one's digest."""
        with tempfile.TemporaryDirectory(prefix="sf-etcd-") as scratch:
            control("etcdctl", self.endpoints, "snapshot", "save", f"{scratch}/db")
            control(offline(), "snapshot", "status", f"{scratch}/db")
            control(offline(), "snapshot", "restore", f"{scratch}/db", f"--data-dir={scratch}/restored")

    def break_hold(self) -> str:
        file = self.data / "stillframe.db"
        assert file.exists()
        control("etcdctl", self.endpoints, "snapshot", "save", str(file), user=USER)
        return r"snapshot status \S+/stillframe.db --write-out=json: answered"


def control(*argv: str, user: str | None = None) -> str:
    """What etcdctl says. Raises CalledProcessError."""
    environ = {"PATH": "/usr/bin:/bin", "ETCDCTL_API": "3"}
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=environ, user=user).stdout


def offline() -> str:
    """The program that reads backups."""
    return "etcdutl" if shutil.which("etcdutl") else "etcdctl"


class Etcd(Engine):
    """One member, and its own backup."""

    name = "etcd"
    policy = "etcd"
    blocks = False
    clients = ("holder", "keeper")
    main = True

    def missing(self) -> str:
        lacking = [name for name in ("etcd", "etcdctl") if shutil.which(name) is None]
        return f"needs {' and '.join(lacking)}" if lacking else ""

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        with private_folder("etcd", USER) as folder:
            if make:
                data.mkdir(mode=0o700)
                shutil.chown(data, USER, USER)
            # Its sockets are named relative to its working folder.
            argv = ["etcd", "--data-dir", str(data), "--logger", "zap"]
            argv += ["--listen-client-urls", "unix://client:1", "--advertise-client-urls", "unix://client:1"]
            argv += ["--listen-peer-urls", "unix://peer:1", "--initial-advertise-peer-urls", "unix://peer:1"]
            argv += ["--initial-cluster", "default=unix://peer:1"]
            with running(argv, USER, folder / "log", cwd=folder) as process:
                server = EtcdServer(data, folder)
                wait_for(server.contents, process, folder / "log", (OSError, http.client.HTTPException))
                if make:
                    with contextlib.closing(Gateway(str(server.address))) as gateway:
                        gateway.put_all({f"accounts/{number}": str(START) for number in accounts()})
                yield server

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        with contextlib.closing(Gateway(target["address"])) as gateway:
            # No other writer has these accounts.
            balances = {int(key): int(value) for key, value in gateway.below("accounts/").items()}

            def commit(number: int) -> None:
                transfer = Transfer.of(number)
                balances[transfer.source] -= transfer.amount
                balances[transfer.target] += transfer.amount
                touched = {f"accounts/{n}": str(balances[n]) for n in (transfer.source, transfer.target)}
                gateway.put_all({f"ledger/{number}": BODY, **touched})

            yield commit


ENGINES = (Etcd(),)
