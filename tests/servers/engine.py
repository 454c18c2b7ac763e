"""What the tests of servers ask of a server: one module in ``engines`` answers it for all of them.

An ``Engine`` is one server in one way of holding it (``mariadb-stages``, ``mariadb-ftwrl``): how to have
it, start it privately, write to it, look into a copy of it, and break what our policy holds. A module in
``engines`` lists its engines in ``ENGINES``; nothing else is to be told of them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

Commit = Callable[[int], None]
"""Commits the transaction of that number, and returns once the server has acknowledged it."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a server says it holds: the numbers of its commits, and in what it is broken ("" in nothing)."""

    commits: set[int]
    broken: str


class Server(ABC):
    """A running private instance of a server."""

    data: Path
    """Its data folder, all of it on the filesystem that the test gave."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The settings of an operator's policy for this instance."""

    @abstractmethod
    def target(self) -> dict[str, Any]:
        """JSON values that tell ``Engine.commits``, in another process, how to reach this instance."""

    @abstractmethod
    def contents(self) -> Contents:
        """What is in it. Every commit since ``prepare``, read by the server itself."""

    @abstractmethod
    def check(self) -> None:
        """The engine's own check tool over everything. Raises AssertionError with what it says."""

    @abstractmethod
    def break_hold(self) -> str:
        """End the session that holds it, or what it holds, from the server's side, as an administrator would.

        Returns a regular expression that the report's reasons must match. Raises AssertionError where there
        is nothing to end.
        """


class Engine(ABC):
    """One server, held in one way."""

    name: str
    """Unique: letters, digits and dashes."""

    policy: str
    """The shipped policy that is tested."""

    blocks: bool
    """Whether a hold lets no commit be acknowledged. Then every commit acknowledged before the release
    must be in the snapshot, and none may be sent and acknowledged during the hold."""

    level: ClassVar[str] = "application"
    """What a held snapshot of it achieves."""

    clients: ClassVar[tuple[str, ...]] = ("holder", "keeper", "client")
    """Processes of ours that are killed in turn; without ``client`` where no client stays."""

    unbreakable: ClassVar[str] = ""
    """Why nothing can break the hold from the server's side; "" where something can."""

    main: bool = False
    """The policy's default way: the short form of the tests does more with it."""

    heavy: ClassVar[bool] = False
    """Whether it takes so long to start that only the full form of the tests has it."""

    restart: ClassVar[float] = 0.0
    """Seconds that the server itself may take to serve again, once it is told to."""

    megabytes: ClassVar[int] = 512
    """Size of the filesystem that it is put on."""

    @abstractmethod
    def missing(self) -> str:
        """Why the server cannot be had on this machine; "" where it can."""

    @abstractmethod
    def server(self, data: Path, make: bool = True) -> AbstractContextManager[Server]:
        """A private instance on the folder ``data``, from its first answer to the end of the context.

        ``make``: the folder is made first, with tables that ``commits`` needs. Without it the instance
        starts on what is there, a copy for instance, and recovers it. It runs as the server's own user,
        listens on a socket in a folder of its own or on a high port of 127.0.0.1, reads no configuration
        of the machine, starts no system service, and syncs as it does in production.
        """

    @abstractmethod
    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        """The writer's side, in a process of its own: yields once, a function that commits.

        Each commit is ``tests.servers.transfers.Transfer`` of its number (or what comes nearest to it).
        """

    def operator(self, server: Server, name: str = "", **settings: Any) -> str:
        """The head of an operator's policy for that instance, with these further settings.

        All but timing, freeze and snapshot.
        """
        values = {**server.settings(), **settings}
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
        return f'name = "{name or self.name}"\nextends = "{self.policy}"\n[settings]\n{lines}\n'

    def __repr__(self) -> str:
        return self.name
