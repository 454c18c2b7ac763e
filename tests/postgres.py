"""A real PostgreSQL server of the distribution's packages, on a folder of the test's choice."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server: where its programs, data and socket are, and as whom it runs."""

    programs: Path
    data: Path
    socket: Path
    port: int
    user: str

    @property
    def conninfo(self) -> str:
        """What psql and libpq connect with."""
        return f"host={self.socket} port={self.port} user=postgres dbname=postgres"

    def query(self, statement: str) -> str:
        """The answer of a new session, unaligned, without headings."""
        argv = ["psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password"]
        argv += ["--set=ON_ERROR_STOP=1", f"--command={statement}", self.conninfo]
        return subprocess.run(
            argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True
        ).stdout

    def committed(self) -> set[int]:
        """Numbers of the commits of ``tests.ledger``'s writer."""
        return {int(line) for line in self.query("SELECT number FROM ledger").split()}

    def wait_until_promoted(self, seconds: float = 30) -> None:
        """Wait until recovery is over. Raises AssertionError."""
        give_up = time.monotonic() + seconds
        while self.query("SELECT pg_is_in_recovery()") == "t\n":
            assert time.monotonic() < give_up
            time.sleep(0.02)


def programs() -> Path | None:
    """The folder with ``initdb`` of the newest server that is installed; None if none is."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]), reverse=True
    )
    return found[0].parent if found else None


@contextlib.contextmanager
def server(data: Path, make: bool = True) -> Iterator[Postgres]:
    """A server on ``data``, made first where ``make``, stopped at the end. fsync stays on.

    It listens on a socket only, in a folder of its own, so that any number can run side by side.
    As root it runs as the user ``postgres``.
    """
    found = programs()
    assert found is not None, "no PostgreSQL server is installed"
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    with contextlib.ExitStack() as stack:
        # A socket's whole path has room for 107 bytes: not below pytest's deep folders.
        socket = Path(tempfile.mkdtemp(prefix="sf-pg-", dir="/tmp"))
        stack.callback(shutil.rmtree, socket, ignore_errors=True)
        if os.geteuid() == 0:
            shutil.chown(socket, user, user)
        if make:
            data.mkdir(mode=0o700)
            if os.geteuid() == 0:
                shutil.chown(data, user, user)
            _run(user, found / "initdb", "-D", data, "--auth=trust", "--username=postgres", "--encoding=UTF8")
        options = f"-c listen_addresses= -c unix_socket_directories={socket} -c port=5432 -c fsync=on"
        log = socket / "log"
        stack.callback(_run, user, found / "pg_ctl", "-D", data, "-m", "fast", "-w", "-t", "30", "stop")
        _run(user, found / "pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "-t", "60", "start")
        yield Postgres(found, data, socket, 5432, user)


def _run(user: str, *argv: str | Path) -> None:
    done = subprocess.run(
        list(map(str, argv)),
        user=user if os.geteuid() == 0 else None,
        group=user if os.geteuid() == 0 else None,
        extra_groups=[] if os.geteuid() == 0 else None,
        # The server keeps what it inherits: a pipe here would never end.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if Path(argv[0]).name == "initdb" else subprocess.DEVNULL,
        cwd="/",
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"},
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, list(map(str, argv)), None, done.stderr)
