"""A stand-in for InterSystems IRIS and its iris session: the write daemon, and the exit statuses 5 and 3."""

from __future__ import annotations

import re
import time

from tests.standins.product import Link, Product, Refused, say


class Iris(Product):
    """One instance."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = False
        self.until = float("inf")
        self.limit = 0
        self.refuses = False

    @property
    def suspended(self) -> bool:
        """Whether the write daemon stands still; it goes on by itself after WDSuspendLimit."""
        if self.frozen and time.monotonic() > self.until:
            self.frozen = False
        return self.frozen

    def writable(self) -> bool:
        """The database files; the journal is another matter."""
        return not self.suspended

    def expire(self) -> None:
        """Let WDSuspendLimit be over."""
        self.until = 0.0

    def freeze_quietly(self) -> None:
        """Another administrator's freeze."""
        self.frozen, self.until = True, float("inf")

    def thaw_quietly(self) -> None:
        """Another administrator's thaw."""
        self.frozen = False

    def execute(self, session: int, statement: str) -> tuple[str, int]:
        """One class method; what it returns is the status that the session ends with."""
        called = re.fullmatch(r"##[Cc]lass\(Backup\.General\)\.(\w+)\((.*)\)", statement)
        if called is None:
            raise Refused("<SYNTAX>", 1)
        name, arguments = called[1], called[2].split(",")
        if name == "IsWDSuspendedExt":
            return "", 5 if self.suspended else 3
        if name == "ExternalFreeze":
            limit = arguments[9] if len(arguments) > 9 else ""
            if self.refuses or self.suspended or (limit and not limit.isdigit()):
                return "", 3
            self.frozen, self.limit = True, int(limit or 0)
            self.until = time.monotonic() + self.limit if self.limit else float("inf")
            return "", 5
        if name == "ExternalThaw":
            self.frozen = False
            return "", 5
        raise Refused("<METHOD DOES NOT EXIST>", 1)


product = Iris


def iris(link: Link, arguments: list[str]) -> int:
    """``iris session INSTANCE -U%SYS METHOD``."""
    if arguments[:1] != ["session"] or arguments[2:3] != ["-U%SYS"] or len(arguments) != 4:
        say("Unknown function")
        return 1
    if arguments[1] != "IRIS":
        say(f"Unknown instance '{arguments[1]}'")
        return 1
    answer = link.ask(say=arguments[3])
    if answer.get("down"):
        say("IRIS is down")
        return 1
    say(answer["text"])
    return int(answer["status"])
