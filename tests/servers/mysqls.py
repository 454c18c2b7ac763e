"""What MariaDB and MySQL have in common: a server process, its client, and how to ask it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.servers import sql
from tests.servers.daemon import running, wait_for
from tests.servers.engine import Commit, Contents, Server

DATABASE = "money"
KEEPER = "keeper"
"""The database user of our sessions: it has the rights that the policy names, and no other."""

CUSTOMER = "customer"
"""A user like any application's, without a password."""

PASSWORD = "correct-horse-battery"

CLIENT = ["--no-defaults", "--batch", "--skip-column-names", "--no-auto-rehash", "--skip-reconnect"]


class MySQLServer(Server):
    """A running server, asked by its own client as its root."""

    def __init__(self, data: Path, folder: Path, client: str, checker: str, settings: dict[str, Any]) -> None:
        self.data = data
        self.folder = folder
        self.socket = folder / "s"
        self.client = client
        self._checker = checker
        self._settings = settings
        self._option_file.touch(0o600)
        self._option_file.write_text(f"[client]\npassword = {PASSWORD}\n")

    def settings(self) -> dict[str, Any]:
        return {
            "socket": str(self.socket),
            "user": KEEPER,
            "option_file": str(self._option_file),
            **self._settings,
        }

    @property
    def _option_file(self) -> Path:
        return self.folder / "keeper.cnf"

    def make_keeper(self, *rights: str) -> None:
        """The user of our sessions, with these rights alone; its password stands in an option file."""
        self.query(f"CREATE USER {KEEPER}@localhost IDENTIFIED BY '{PASSWORD}'")
        self.query(f"GRANT {', '.join(rights)} ON *.* TO {KEEPER}@localhost")

    def target(self) -> dict[str, Any]:
        return {"client": self.client, "socket": str(self.socket)}

    def query(self, statement: str, user: str = "root", seconds: float = 60) -> str:
        """The answer of a new session, tabs between columns. Raises CalledProcessError."""
        argv = [self.client, *CLIENT, f"--socket={self.socket}", f"--user={user}", f"--execute={statement}"]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, env=_environ()
        )
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
            error.add_note(done.stderr.strip())
            raise error
        return done.stdout

    def contents(self) -> Contents:
        return sql.contents(
            lambda query: [line.split("\t") for line in self.query(f"USE {DATABASE}; {query}").splitlines()]
        )

    def check(self) -> None:
        argv = [self._checker, "--no-defaults", f"--socket={self.socket}", "--user=root"]
        argv += ["--all-databases", "--check", "--extended", "--silent"]
        done = subprocess.run(argv, capture_output=True, text=True, env=_environ())
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done

    def break_hold(self) -> str:
        ours = self.query(f"SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{KEEPER}'").split()
        assert ours, "no session of ours is there"
        self.query("; ".join(f"KILL {number}" for number in ours))
        return "ERROR (1927|2006|2013|4031) "


@contextlib.contextmanager
def process(argv: Sequence[str | Path], user: str, probe: MySQLServer) -> Iterator[None]:
    """The server process, from its first answer to ``probe`` to its end in good order."""
    log = probe.folder / "log"
    with running(argv, user, log) as server:
        wait_for(lambda: probe.query("SELECT 1"), server, log, (subprocess.CalledProcessError,))
        yield


def commits(target: dict[str, Any]) -> Iterator[Commit]:
    """The writer's side."""
    argv = [target["client"], *CLIENT, "--unbuffered", f"--socket={target['socket']}", "--user=root"]
    return sql.typed([*argv, DATABASE], "SELECT 'ok {number}';")


def make_tables(server: MySQLServer, engine: str = "InnoDB") -> None:
    """The writers' tables."""
    server.query(f"CREATE DATABASE {DATABASE}; CREATE USER {CUSTOMER}@localhost")
    server.query(f"GRANT ALL ON {DATABASE}.* TO {CUSTOMER}@localhost")
    for statement in sql.TABLES:
        made = f"{statement} ENGINE={engine}" if statement.startswith("CREATE TABLE") else statement
        server.query(f"USE {DATABASE}; {made}")


NOTES = (
    f"CREATE TABLE {DATABASE}.notes"
    " (id INT AUTO_INCREMENT PRIMARY KEY, body VARCHAR(200), KEY (body)) ENGINE=MyISAM"
)
"""A table without a log, with an index."""


@contextlib.contextmanager
def notes(server: MySQLServer) -> Iterator[None]:
    """That table, for as long as the context lasts, and a client that inserts into it."""
    server.query(NOTES)
    try:
        with taking_notes(server):
            yield
    finally:
        server.query(f"DROP TABLE {DATABASE}.notes")


@contextlib.contextmanager
def taking_notes(server: MySQLServer) -> Iterator[None]:
    """A client that inserts into that table, one row a statement, until the context ends."""
    argv = [server.client, *CLIENT, f"--socket={server.socket}", f"--user={CUSTOMER}", DATABASE]
    insert = "INSERT INTO notes (body) VALUES (UUID());"
    # What is in the pipe at the end is still inserted.
    with subprocess.Popen(["yes", insert], stdout=subprocess.PIPE, pipesize=4096) as feed:
        # The last line may be half a one, which the client complains of.
        silent = subprocess.DEVNULL
        client = subprocess.Popen(argv, stdin=feed.stdout, stdout=silent, stderr=silent)
        try:
            yield
        finally:
            feed.kill()
            client.wait(60)


def _environ() -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
