"""What every stand-in has in common: a server with sessions and a state, and a client beside it.

A stand-in speaks its client's side of the conversation as the vendor documents it (what is typed, what
is printed, what the exit statuses are) and keeps the server's own states (what a freeze counts, what
outlives a session). It is written from documents, never from the policy: a policy that says something
that the vendor's server would not understand is refused by it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any


class Refused(Exception):
    """The server's error message; ``status`` is the client's exit status for it."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


class Product:
    """A server's state. ``execute`` is called by one session at a time."""

    def __init__(self) -> None:
        self.running: dict[int, str] = {}
        self.starts = 1
        self.born = time.strftime("%Y-%m-%d %H:%M:%S") + f".{os.getpid()}"
        self.up = True

    def writable(self) -> bool:
        """Whether the server would write a record to its files now."""
        return True

    def execute(self, session: int, statement: str) -> tuple[str, int]:
        """What the server answers, and the exit status. Raises Refused."""
        raise NotImplementedError

    def ended(self, session: int) -> None:
        """A session is over, in whatever way."""

    def restart(self) -> None:
        """What is not on disk is lost."""
        starts = self.starts
        self.__init__()  # type: ignore[misc]  # as a process that starts anew
        self.starts = starts + 1
        self.born += f".{starts}"


class Server:
    """Serves one product on a socket, and writes records to a file whenever the product lets it.

    Each record is noted as ``tests.ledger`` does. Requests are JSON lines: ``{"say": STATEMENT}``, or of
    the test itself ``{"look": NAME}``, ``{"set": NAME, "to": VALUE}``, ``{"rig": REGEX, ...}``,
    ``{"log": true}``.
    """

    def __init__(self, product: Product, data: str, notes: str) -> None:
        self.product = product
        self.lock = threading.Lock()
        self.rigged: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.numbers = itertools.count(51)
        threading.Thread(target=self._write, args=(data, notes), daemon=True).start()

    def _write(self, data: str, notes: str) -> None:
        store = os.open(data, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        noted = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        number = 0
        while True:
            with self.lock:
                if self.product.up and self.product.writable():
                    number += 1
                    sent = time.monotonic()
                    os.write(store, f"{number}\n".encode())
                    os.write(noted, f"{number} {sent:.6f} {time.monotonic():.6f}\n".encode())
            time.sleep(0.002)

    def serve(self, address: str) -> None:
        """Until killed."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            os.chmod(address, 0o666)
            listener.listen(64)
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._session, args=(connection,), daemon=True).start()

    def _session(self, connection: socket.socket) -> None:
        number = next(self.numbers)
        started = self.product.starts
        with contextlib.suppress(OSError):  # the client was killed
            self._converse(connection, number, started)
        with self.lock:
            self.product.ended(number)

    def _converse(self, connection: socket.socket, number: int, started: int) -> None:
        with connection, connection.makefile("rw", encoding="utf-8") as channel:
            for line in channel:
                if started != self.product.starts:
                    return  # the server that it was connected to is gone
                channel.write(json.dumps(self._answer(number, json.loads(line))) + "\n")
                channel.flush()

    def _answer(self, session: int, request: dict[str, Any]) -> Any:
        if "say" in request:
            return self._execute(session, request["say"])
        with self.lock:
            if "look" in request:
                return getattr(self.product, request["look"])
            if "set" in request:
                setattr(self.product, request["set"], request["to"])
            if "call" in request:
                getattr(self.product, request["call"])()
            if "rig" in request:
                self.rigged.append(request)
            return list(self.log)

    def _execute(self, session: int, statement: str) -> dict[str, Any]:
        rig = next((r for r in self.rigged if re.search(r["rig"], statement)), None)
        if rig is not None:
            rig["times"] = rig.get("times", 1) - 1
            if rig["times"] <= 0:
                self.rigged.remove(rig)
            # A server goes on with what it was asked for, whether or not the client still lives.
            self.product.running[session] = statement
            time.sleep(rig.get("delay", 0))
            self.product.running.pop(session)
            if "answer" in rig:
                return {"text": rig["answer"], "status": rig.get("status", 0)}
        with self.lock:
            self.log.append(statement.strip())
            if not self.product.up:
                return {"down": True}
            try:
                text, status = self.product.execute(session, statement)
            except Refused as error:
                return {"text": error.text, "status": error.status, "refused": True}
            except sqlite3.Error as error:
                return {"text": f"{error}: {statement}", "status": 1, "refused": True}
        return {"text": text, "status": status}


class Link:
    """A client's connection to its server."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(address)
        self._channel = self.socket.makefile("rw", encoding="utf-8")

    def close(self) -> None:
        """End the session."""
        self._channel.close()
        self.socket.close()

    def ask(self, **request: Any) -> Any:
        """One request and its answer; EOFError when the server is gone."""
        self._channel.write(json.dumps(request) + "\n")
        self._channel.flush()
        line = self._channel.readline()
        if not line:
            raise EOFError
        return json.loads(line)


def say(text: str) -> None:
    """Print at once, as a client does that is talked to over pipes."""
    if text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


Tables = dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]
"""Columns and rows, by the table's name."""

Functions = dict[str, Callable[..., Any]]


def queries(tables: Tables, *schemas: str) -> sqlite3.Connection:
    """SQLite with these tables: a SELECT of a policy is really evaluated, on columns that are documented."""
    database = sqlite3.connect(":memory:")
    for schema in schemas:
        database.execute(f"ATTACH DATABASE ':memory:' AS {schema}")
    for name, (columns, content) in tables.items():
        database.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
        database.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' for _ in columns)})", content)
    return database


def rows(database: sqlite3.Connection, statement: str, functions: Functions) -> list[tuple[Any, ...]]:
    """The rows of a SELECT."""
    for name, function in functions.items():
        database.create_function(name, -1, function)
    return database.execute(statement).fetchall()
