"""A way in to a server that demands authentication: one module in ``logins`` for each server.

A ``Login`` is a server that is started so that nobody gets in without what it wants, and the few lines of
an operator's policy with which the shipped one does. A module in ``logins`` lists its own in ``LOGINS``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tests.integration.secrets.hiding import new_canary


@dataclass(frozen=True, slots=True)
class Wanted:
    """A running server, and what an operator's policy says of it.

    ``policy``: all but its name, where the secret is, timing, freeze and snapshot. ``logs``: what the server
    writes, apart from where it keeps its passwords. ``secret``: what is secret, where it is not the canary.
    """

    policy: str
    logs: tuple[Path, ...] = ()
    secret: str = ""


class Login(ABC):
    """One server, entered in one way."""

    name: str
    """Unique: letters, digits and dashes."""

    client: ClassVar[str]
    """A word in the arguments of the program that enters."""

    wrong: ClassVar[str] = ""
    """What the reason must match where the secret is another one; "" where it is never in our hands."""

    session: ClassVar[bool] = True
    """Whether the client stays."""

    level: ClassVar[str] = "application"
    """What is achieved."""

    short: ClassVar[bool] = False
    """Whether the short form of the tests has it."""

    def canary(self) -> str:
        """A new password; a server that takes fewer characters has one of its own."""
        return new_canary()

    @abstractmethod
    def missing(self) -> str:
        """Why it cannot be tried on this machine; "" where it can."""

    @abstractmethod
    def wanting(self, canary: str, folder: Path) -> AbstractContextManager[Wanted]:
        """The server, which wants ``canary``. ``folder``: an empty one on tmpfs, root's."""

    def __repr__(self) -> str:
        return self.name
