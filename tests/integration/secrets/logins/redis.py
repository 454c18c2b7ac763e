"""Redis and Valkey: a password for all, a user of an access list, TLS on both sides."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tests.integration.secrets import certificate
from tests.integration.secrets.certificate import ADDRESS
from tests.integration.secrets.login import Login, Wanted
from tests.servers.daemon import free_port, private_folder, running, wait_for
from tests.servers.engines.redis import Programs, Redis
from tests.servers.engines.valkey import Valkey

_POLICY = """
extends = "{extends}"
[settings]
connect = {connect}
programs = "{programs.prefix}"
os_user = "{programs.user}"
[session]
login = ["AUTH {user}{{password:quoted}}"]
"""

_COMMANDS = "+echo +client +config +info +role +bgsave"
"""Those of the policy's header."""


class Unanswered(Exception):
    """The server has not said PONG."""


@dataclass(frozen=True, slots=True)
class Place:
    """A running server, asked by its own client, which is told the password on its standard input."""

    client: str
    connect: tuple[str, ...]
    socket: Path

    def ask(self, *words: str, password: str = "", seconds: float = 10) -> str:
        """The answer to one command, after AUTH if there is a password: typed, never an argument."""
        text = (f"AUTH {quoted(password)}\n" if password else "") + " ".join(words) + "\n"
        done = subprocess.run(
            [self.client, *self.connect], input=text, capture_output=True, text=True, timeout=seconds
        )
        return done.stdout.removeprefix("OK\n").strip()

    def is_paused(self, password: str) -> bool:
        """Whether a write has to wait."""
        try:
            return "OK" not in self.ask("SET", "a", "b", password=password, seconds=0.2)
        except subprocess.TimeoutExpired:
            return True


def quoted(password: str) -> str:
    """As a server's configuration and its client's input want it."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in password.encode()) + '"'


@contextlib.contextmanager
def locked(
    programs: Programs, password: str, lines: Sequence[str] = (), connect: Sequence[str] = ()
) -> Iterator[Place]:
    """A server on a socket that wants that password, with further lines for its configuration.

    ``connect``: how its client reaches it, absent: by the socket.
    """
    with private_folder("redis", programs.user) as folder:
        path = folder / "s"
        text = [
            f"unixsocket {path}",
            "unixsocketperm 777",
            f"dir {folder}",
            f"requirepass {quoted(password)}",
        ]
        text += lines if any(line.startswith("port ") for line in lines) else ["port 0", *lines]
        file = folder / "secret.conf"
        file.touch(0o600)
        file.write_text("\n".join(text) + "\n")
        os.chown(file, *_owner(folder))
        place = Place(f"{programs.prefix}-cli", tuple(connect or ("-s", str(path))), path)
        argv = [f"{programs.prefix}-server", str(file)]
        with running(argv, programs.user, folder / "log") as process:
            wait_for(lambda: _pong(place, password), process, folder / "log", (Unanswered,))
            file.unlink()
            yield place


def _owner(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_uid, found.st_gid


def _pong(place: Place, password: str) -> None:
    if "PONG" not in (said := place.ask("PING", password=password)):
        raise Unanswered(said)


class Socket(Login):
    """On a socket alone."""

    client: ClassVar[str] = "-cli"
    wrong: ClassVar[str] = "WRONGPASS"
    engine: ClassVar[type[Redis]] = Valkey
    name = "valkey-socket"
    user = ""
    """Of the access list, and a blank after it."""

    def missing(self) -> str:
        return self.engine("no").missing()

    @contextlib.contextmanager
    def wanting(self, canary: str, folder: Path) -> Iterator[Wanted]:
        programs = self.engine("no").programs()
        assert isinstance(programs, Programs)
        lines, connect = self.way(canary, folder, programs)
        with locked(programs, canary, lines, connect) as place:
            extends = self.engine.policy
            words = list(place.connect)
            policy = _POLICY.format(extends=extends, connect=words, programs=programs, user=self.user)
            yield Wanted(policy, (place.socket.with_name("log"),))

    def way(self, canary: str, folder: Path, programs: Programs) -> tuple[list[str], list[str]]:
        """Further lines for the configuration, and what the client is told of where the server is."""
        return [], []


class AccessList(Socket):
    """By TCP, as a user who may what the policy needs and no more."""

    name = "valkey-acl"
    user = "keeper "

    def way(self, canary: str, folder: Path, programs: Programs) -> tuple[list[str], list[str]]:
        port = str(free_port())
        keeper = f"user keeper on {quoted('>' + canary)} nocommands {_COMMANDS} ~* &*"
        return [f"port {port}", "bind 127.0.0.1", keeper], ["-h", "127.0.0.1", "-p", port]


class Tls(Socket):
    """Both sides show certificates."""

    name = "redis-tls"
    engine: ClassVar[type[Redis]] = Redis
    short: ClassVar[bool] = True

    def missing(self) -> str:
        return super().missing() or certificate.missing()

    def way(self, canary: str, folder: Path, programs: Programs) -> tuple[list[str], list[str]]:
        made = certificate.make(folder, "redis", programs.user)
        port = str(free_port())
        files = (f"cert-file {made.file}", f"key-file {made.key}", f"ca-cert-file {made.file}")
        lines = [f"bind {ADDRESS}", f"tls-port {port}", "tls-auth-clients yes"]
        lines += [f"tls-{each}" for each in files]
        connect = ["-h", ADDRESS, "-p", port, "--tls", "--cacert", str(made.file)]
        return lines, [*connect, "--cert", str(made.file), "--key", str(made.key)]


LOGINS = (Socket(), AccessList(), Tls())
