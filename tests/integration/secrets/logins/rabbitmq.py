"""RabbitMQ: the Erlang cookie in the home of the user who controls it, who is not the server's."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tests.integration.secrets.login import Login, Wanted
from tests.servers.daemon import private_folder
from tests.servers.engines.rabbitmq import Node, Stopped

USER = "daemon"
"""Whoever controls it here: every Linux has that user."""


class Cookie(Login):
    """The broker is stopped and started again."""

    name = "rabbitmq-stopped"
    client: ClassVar[str] = "rabbitmqctl"
    session: ClassVar[bool] = False

    def canary(self) -> str:
        """A cookie is one word."""
        return super().canary()[-22:]

    def missing(self) -> str:
        return Stopped().missing()

    @contextlib.contextmanager
    def wanting(self, canary: str, folder: Path) -> Iterator[Wanted]:
        engine = Stopped(canary)
        with private_folder("home", USER) as home, engine.server(folder / "data") as server:
            assert isinstance(server, Node)
            own = Path(server.environ["HOME"])
            shutil.copy(own / ".erlang.cookie", home)
            shutil.chown(home / ".erlang.cookie", USER)
            head = engine.operator(server, os_user=USER).partition("\n")[2]
            policy = head.replace(f'HOME = "{own}"', f'HOME = "{home}"')
            assert policy != head
            yield Wanted(policy, (own / "log", server.data))


LOGINS = (Cookie(),)
