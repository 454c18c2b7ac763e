"""What every SQL server is given: tables, transactions as statements, and a client to type them into."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.servers.engine import Commit, Contents
from tests.servers.transfers import BODY, START, Transfer, accounts, broken

TABLES = (
    "CREATE TABLE ledger (number bigint PRIMARY KEY, body varchar(255))",
    "CREATE TABLE accounts (id integer PRIMARY KEY, balance bigint NOT NULL)",
    "INSERT INTO accounts (id, balance) VALUES " + ", ".join(f"({number}, {START})" for number in accounts()),
)
"""Statements that make the tables, without a semicolon."""


def statements(number: int) -> tuple[str, ...]:
    """The transaction of that number, without its beginning and its commit."""
    transfer = Transfer.of(number)
    return (
        f"INSERT INTO ledger (number, body) VALUES ({number}, '{BODY}')",
        f"UPDATE accounts SET balance = balance - {transfer.amount} WHERE id = {transfer.source}",
        f"UPDATE accounts SET balance = balance + {transfer.amount} WHERE id = {transfer.target}",
    )


def contents(rows: Callable[[str], Sequence[Sequence[str]]]) -> Contents:
    """What is in the tables; ``rows`` gives the rows of a query."""
    commits = {int(number) for (number,) in rows("SELECT number FROM ledger")}
    balances = {int(name): int(value) for name, value in rows("SELECT id, balance FROM accounts")}
    return Contents(commits, broken(commits, balances))


def typed(
    argv: Sequence[str], mark: str, begin: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Iterator[Commit]:
    """The writer's side: transactions are typed into a client that stays, one line each.

    ``mark``: what makes the client print a line of ``ok N``, with ``{number}`` in it, if all went well.
    """
    with contextlib.closing(Client(argv, environ)) as client:
        for statement in begin:
            client.type(f"{statement};\n")

        def commit(number: int) -> None:
            text = "; ".join(("BEGIN", *statements(number), "COMMIT"))
            client.type(f"{text};\n{mark.replace('{number}', str(number))}\n")
            client.expect(f"ok {number}")

        yield commit


class Client:
    """A client program that reads statements from a pipe."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **(environ or {})},
            cwd="/",
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def type(self, text: str) -> None:
        """Type that."""
        self._input.write(text)
        self._input.flush()

    def expect(self, line: str) -> None:
        """Wait for the next line. Raises ConnectionError unless it is that one."""
        answer = self.line()
        if answer != line:
            raise ConnectionError(f"the client said {answer!r}, not {line!r}")

    def line(self) -> str:
        """The next line of what it says. Raises ConnectionError at the end of it."""
        answer = self._output.readline()
        if not answer.endswith("\n"):
            raise ConnectionError(f"the client has ended: {answer!r}")
        return answer[:-1]

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._output.close()
