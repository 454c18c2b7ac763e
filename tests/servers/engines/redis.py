"""Redis as the distribution has it, from RDB files and from append-only files."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.daemon import private_folder, running, wait_for
from tests.servers.engine import Commit, Contents, Engine, Server
from tests.servers.transfers import BODY, START, Transfer, accounts, broken

# Saves and rewrites of the server's own come all the time, so that holds meet them.
_OPTIONS = {
    "no": ["--save", "2 50"],
    "yes": ["--save", "", "--auto-aof-rewrite-percentage", "50", "--auto-aof-rewrite-min-size", "64kb"],
}

REWRITE_PERCENTAGE = "50"
"""What the server has before a hold, and must have after it."""

Reply = int | str | list[Any] | None


class Refused(Exception):
    """The server's answer is an error."""


class Client:
    """A connection to a server: RESP2, a command and its answer at a time, or several."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise
        self._file = self._socket.makefile("rb")

    def ask(self, *words: str) -> Reply:
        """The answer to one command. Raises Refused."""
        return self.ask_all([words])[-1]

    def ask_all(self, commands: list[tuple[str, ...]]) -> list[Reply]:
        """The answers to commands that are sent at once. Raises Refused."""
        self._socket.sendall(b"".join(map(_encode, commands)))
        return [self._read() for _ in commands]

    def close(self) -> None:
        """End it."""
        self._file.close()
        self._socket.close()

    def _read(self) -> Reply:
        line = self._file.readline()
        if not line:
            raise ConnectionError("the server has closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise Refused(rest.decode())
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if int(rest) < 0:
            return None
        if kind == b"$":
            return self._file.read(int(rest) + 2)[:-2].decode()
        return [self._read() for _ in range(int(rest))]


def _encode(words: tuple[str, ...]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)


@dataclass(frozen=True, slots=True)
class Programs:
    """Whose programs they are, and the path before -cli, -server and so on."""

    prefix: str
    user: str


class RedisServer(Server):
    """One instance."""

    def __init__(self, data: Path, address: Path, programs: Programs, appendonly: str) -> None:
        self.data = data
        self.address = address
        self._programs = programs
        self._appendonly = appendonly

    def settings(self) -> dict[str, Any]:
        return {
            "connect": ["-s", str(self.address)],
            "appendonly": self._appendonly,
            "os_user": self._programs.user,
            "programs": self._programs.prefix,
        }

    def target(self) -> dict[str, Any]:
        return {"address": str(self.address)}

    def ask(self, *words: str) -> Reply:
        """The answer of a new connection. Raises Refused."""
        with contextlib.closing(Client(str(self.address))) as client:
            return client.ask(*words)

    def info(self, section: str) -> dict[str, str]:
        """What INFO says of that."""
        text = self.ask("INFO", section)
        assert isinstance(text, str)
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def contents(self) -> Contents:
        ledger, balances = self.ask("HKEYS", "ledger"), self.ask("HGETALL", "accounts")
        assert isinstance(ledger, list) and isinstance(balances, list)
        commits = set(map(int, ledger))
        found = dict(zip(map(int, balances[::2]), map(int, balances[1::2]), strict=True))
        return Contents(commits, broken(commits, found))

    def check(self) -> None:
        folder = self.data / "appendonlydir"
        if self._appendonly == "no":
            self._say("check-rdb", self.data / "dump.rdb", "RDB looks OK!")
        elif self._programs.prefix.endswith("valkey"):
            # The whole is too much for valkey-check-aof: github.com/valkey-io/valkey/pull/4739.
            for base in folder.glob("*.base.rdb"):
                self._say("check-rdb", base, "RDB looks OK!")
            for later in folder.glob("*.incr.aof"):
                self._say("check-aof", later, "is valid")
        else:
            self._say("check-aof", folder / "appendonly.aof.manifest", "All AOF files and manifest are valid")

    def _say(self, tool: str, file: Path, words: str) -> None:
        argv = [f"{self._programs.prefix}-{tool}", str(file)]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0 and words in done.stdout, (done.stdout, done.stderr)

    def break_hold(self) -> str:
        assert self.ask("CLIENT", "UNPAUSE") == "OK"
        return "paused_reason|rdb_changes_since_last_save|aof_current_size"


class Redis(Engine):
    """With one kind of file."""

    policy = "redis"
    blocks = True

    def __init__(self, appendonly: str, *, main: bool = False) -> None:
        self.name = f"{self.policy}-{'aof' if appendonly == 'yes' else 'rdb'}"
        self.main = main
        self._appendonly = appendonly

    def programs(self) -> Programs | str:
        """What is installed, or what is missing."""
        lacking = [f"redis-{one}" for one in ("server", "cli") if shutil.which(f"redis-{one}") is None]
        return f"needs {' and '.join(lacking)}" if lacking else Programs("/usr/bin/redis", "redis")

    def missing(self) -> str:
        found = self.programs()
        return found if isinstance(found, str) else ""

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        with self.instance(data, make) as server:
            yield server

    @contextlib.contextmanager
    def instance(self, data: Path, make: bool = True, *options: str) -> Iterator[RedisServer]:
        """The same, with further options for the server; on its socket only, where they name no port."""
        programs = self.programs()
        assert isinstance(programs, Programs), programs
        with private_folder("redis", programs.user) as folder:
            if make:
                data.mkdir(mode=0o700)
                shutil.chown(data, programs.user, programs.user)
            address = folder / "socket"
            argv = [f"{programs.prefix}-server", "--dir", str(data), "--port", "0", "--daemonize", "no"]
            argv += [
                "--unixsocket",
                str(address),
                "--unixsocketperm",
                "777",
                "--logfile",
                str(folder / "log"),
            ]
            # A copy stays as it is while it is looked at.
            still = ["--save", "", "--auto-aof-rewrite-percentage", "0"]
            argv += ["--appendonly", self._appendonly, *(_OPTIONS[self._appendonly] if make else still)]
            argv += options
            with running(argv, programs.user, folder / "output") as process:
                server = RedisServer(data, address, programs, self._appendonly)
                wait_for(lambda: server.ask("DBSIZE"), process, folder / "log", (OSError, Refused))
                if make:
                    pairs = [word for number in accounts() for word in (str(number), str(START))]
                    server.ask("HSET", "accounts", *pairs)
                yield server

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        def commit(number: int) -> None:
            transfer = Transfer.of(number)
            answers = client.ask_all(
                [
                    ("MULTI",),
                    ("HSET", "ledger", str(number), BODY),
                    ("HINCRBY", "accounts", str(transfer.source), str(-transfer.amount)),
                    ("HINCRBY", "accounts", str(transfer.target), str(transfer.amount)),
                    ("EXEC",),
                ]
            )
            assert isinstance(answers[-1], list) and answers[-1][0] == 1, answers
            # Faster than any test needs: the ledgers would grow without end.
            time.sleep(0.0005)

        with contextlib.closing(Client(target["address"])) as client:
            yield commit


ENGINES = (Redis("no", main=True), Redis("yes"))
