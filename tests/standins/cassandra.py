"""A stand-in for a node of Cassandra or Scylla and its nodetool."""

from __future__ import annotations

from tests.standins.product import Link, Product, Refused, say


class Cassandra(Product):
    """One node."""

    def __init__(self) -> None:
        super().__init__()
        self.node = "bd2c9f7e-0b7b-4a6e-9d0c-2f7f7c9a1d55"
        self.flushes = 0

    def replaced(self) -> None:
        """Another node answers."""
        self.node = "00000000-0000-4000-8000-000000000000"

    def execute(self, session: int, statement: str) -> tuple[str, int]:
        """One command of nodetool's."""
        if statement == "info":
            return f"ID                     : {self.node}\nGossip active          : true\nLoad : 1.1 MiB", 0
        if statement == "flush":
            self.flushes += 1
            return "", 0
        raise Refused(f"nodetool: Found unexpected parameters: [{statement}]", 1)


product = Cassandra


def nodetool(link: Link, arguments: list[str]) -> int:
    """``nodetool COMMAND``."""
    answer = link.ask(say=" ".join(arguments))
    if answer.get("down"):
        say("nodetool: Failed to connect to '127.0.0.1:7199' - ConnectException: 'Connection refused'.")
        return 1
    say(answer["text"])
    return int(answer["status"])
