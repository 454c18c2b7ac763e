"""RabbitMQ as the distribution has it: one node, written to by STOMP, a durable queue as the ledger.

A commit is one persistent message that the broker has confirmed (a STOMP receipt). It says what it makes of
the two balances.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from tests.servers.daemon import free_port, private_folder, running, wait_for
from tests.servers.engine import Commit, Contents, Engine, Server
from tests.servers.transfers import BODY, START, Transfer, accounts, broken

USER = "rabbitmq"
PROGRAMS = Path("/usr/lib/rabbitmq/bin")
QUEUE = "/queue/ledger"

_CONFIGURATION = """
listeners.tcp = none
stomp.listeners.tcp.1 = 127.0.0.1:{port}
log.file = false
log.console = true
log.console.level = warning
"""


class Failed(Exception):
    """What a control program said."""


class Stomp:
    """A connection to the broker. Raises OSError and ConnectionError wherever it is lost or refused."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._file = self._socket.makefile("rb")
        try:
            self.send(
                "CONNECT", {"accept-version": "1.2", "host": "/", "login": "guest", "passcode": "guest"}
            )
            self.expect("CONNECTED")
        except BaseException:
            self.close()
            raise

    def send(self, command: str, headers: dict[str, str], body: str = "") -> None:
        """Send a frame."""
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        self._socket.sendall(f"{command}\n{lines}\n{body}\0".encode())

    def expect(self, command: str) -> tuple[dict[str, str], str]:
        """The headers and the body of the next frame."""
        frame = b""
        while not frame.endswith(b"\0"):
            byte = self._file.read(1)
            if not byte:
                raise ConnectionError("the broker has closed the connection")
            if frame or byte != b"\n":
                frame += byte
        head, _, body = frame[:-1].decode().partition("\n\n")
        name, *lines = head.splitlines()
        if name != command:
            raise ConnectionError(f"{name}, not {command}: {head} {body}")
        return dict(line.split(":", 1) for line in lines), body

    def close(self) -> None:
        """End it."""
        self._file.close()
        self._socket.close()


class Node(Server):
    """One running node."""

    def __init__(self, data: Path, environ: dict[str, str], port: int, mode: str) -> None:
        self.data = data
        self._environ = environ
        self._port = port
        self._mode = mode

    @property
    def environ(self) -> dict[str, str]:
        """What makes the control programs reach it."""
        return self._environ

    def settings(self) -> dict[str, Any]:
        return {
            "mode": self._mode,
            "folder": str(self.data),
            "rabbitmqctl": str(PROGRAMS / "rabbitmqctl"),
        }

    def target(self) -> dict[str, Any]:
        found = read_all(self._port, self._count())
        return {"port": self._port, "balances": {str(name): value for name, value in balances(found).items()}}

    def control(self, program: str, *arguments: str) -> str:
        """What a control program says. Raises Failed."""
        done = subprocess.run(
            [PROGRAMS / program, "-q", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            user=USER,
            group=USER,
            extra_groups=[],
            cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **self._environ},
        )
        if done.returncode:
            raise Failed(f"{done.returncode}: {done.stdout} {done.stderr}")
        return done.stdout

    def contents(self) -> Contents:
        found = read_all(self._port, self._count())
        return Contents(set(found), broken(set(found), balances(found)))

    def check(self) -> None:
        self.control("rabbitmq-diagnostics", "check_running")
        self.control("rabbitmq-diagnostics", "check_virtual_hosts")
        self.control("rabbitmq-diagnostics", "check_local_alarms")

    def break_hold(self) -> str:
        self.control("rabbitmqctl", "start_app")
        return r"rabbit_boot_state:get\(\)"

    def _count(self) -> int:
        said = self.control("rabbitmqctl", "--no-table-headers", "list_queues", "messages")
        return sum(map(int, said.split()))


def read_all(port: int, count: int) -> dict[int, dict[int, int]]:
    """By the number of each commit, what it makes of balances; the messages stay in the queue."""
    found: dict[int, dict[int, int]] = {}
    if not count:
        return found
    with contextlib.closing(Stomp(port)) as stomp:
        stomp.send("SUBSCRIBE", {"id": "0", "destination": QUEUE, "ack": "client"})
        for _ in range(count):
            _, body = stomp.expect("MESSAGE")
            pairs = re.findall("([0-9]+)=(-?[0-9]+)", body)
            found[int(body.partition(" ")[0])] = {int(name): int(value) for name, value in pairs}
    return found


def balances(ledger: dict[int, dict[int, int]]) -> dict[int, int]:
    """What every account has: the last commit that touched it says so."""
    out = dict.fromkeys(accounts(), START)
    for number in sorted(ledger):
        out.update(ledger[number])
    return out


class Stopped(Engine):
    """The broker is stopped: clients are disconnected, and connect again."""

    policy = "rabbitmq"
    name = "rabbitmq-stopped"
    mode = "stopped"
    blocks = True
    main = True
    clients = ("holder", "keeper")
    heavy: ClassVar[bool] = True
    restart: ClassVar[float] = 6.0

    def __init__(self, cookie: str = "") -> None:
        self.cookie = cookie or secrets.token_hex(16)

    def missing(self) -> str:
        return "" if (PROGRAMS / "rabbitmq-server").exists() else "needs rabbitmq-server"

    def operator(self, server: Server, name: str = "", **settings: Any) -> str:
        assert isinstance(server, Node)
        lines = "\n".join(f'{key} = "{value}"' for key, value in server.environ.items())
        return super().operator(server, name, **settings) + f"[command.environment]\n{lines}\n"

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        with private_folder("rabbit", USER) as folder:
            if make:
                data.mkdir(mode=0o700)
                shutil.chown(data, USER, USER)
            port, names, distribution = free_port(), free_port(), free_port()
            cookie = folder / ".erlang.cookie"
            cookie.write_text(self.cookie)
            cookie.chmod(0o400)
            (folder / "broker.conf").write_text(_CONFIGURATION.format(port=port))
            (folder / "plugins").write_text("[rabbitmq_stomp].\n")
            for path in (cookie, folder / "plugins"):
                shutil.chown(path, USER, USER)
            environ = {
                "HOME": str(folder),
                "ERL_EPMD_PORT": str(names),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODENAME": "sf@localhost",
                "RABBITMQ_DIST_PORT": str(distribution),
                "RABBITMQ_MNESIA_BASE": str(data),
                "RABBITMQ_LOG_BASE": str(folder),
                "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
                "RABBITMQ_CONFIG_FILE": str(folder / "broker"),
                "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none.config"),
                "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            }
            server = Node(data, environ, port, self.mode)
            with (
                running(["epmd", "-address", "127.0.0.1", "-port", str(names)], USER, folder / "epmd"),
                running([PROGRAMS / "rabbitmq-server"], USER, folder / "log", environ) as process,
            ):
                wait_for(
                    lambda: server.control("rabbitmqctl", "await_startup"),
                    process,
                    folder / "log",
                    (Failed,),
                    120,
                )
                yield server

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        writer = _Writer(target["port"], {int(name): value for name, value in target["balances"].items()})
        with contextlib.closing(writer):
            yield writer.commit


class _Writer:
    """Connects again, and sends again, whenever the broker is gone."""

    def __init__(self, port: int, now: dict[int, int]) -> None:
        self._port = port
        # No other writer has these accounts.
        self._now = now
        self._stomp: Stomp | None = None

    def commit(self, number: int) -> None:
        transfer = Transfer.of(number)
        self._now[transfer.source] -= transfer.amount
        self._now[transfer.target] += transfer.amount
        touched = (transfer.source, transfer.target)
        text = " ".join([str(number), *(f"{account}={self._now[account]}" for account in touched), BODY])
        while True:
            try:
                self._stomp = self._stomp or Stomp(self._port)
                headers = {"destination": QUEUE, "persistent": "true", "receipt": str(number)}
                self._stomp.send("SEND", headers, text)
                self._stomp.expect("RECEIPT")
                return
            except OSError:
                self.close()
            time.sleep(0.02)

    def close(self) -> None:
        if self._stomp:
            self._stomp.close()
        self._stomp = None


class Definitions(Stopped):
    """Nothing stands still, and nothing is claimed for its messages."""

    level: ClassVar[str] = "filesystem"
    name = "rabbitmq-definitions"
    mode = "definitions"
    blocks = False
    main = False
    unbreakable = "nothing of the server is held"


ENGINES = (Stopped(), Definitions())
