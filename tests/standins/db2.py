"""A stand-in for Db2, its command line processor and db2pd: suspend_io and the connection it hangs on.

A ``db2`` command ends at once; what keeps the connection is its back end, one for each shell that starts
commands. Here the number of that shell stands for it.
"""

from __future__ import annotations

import os
import re
import signal

from tests.standins.product import Link, Product, Refused, say

DONE = "DB20000I  The {0} command completed successfully."


class Db2(Product):
    """One instance with one database, SAMPLE."""

    def __init__(self) -> None:
        super().__init__()
        self.suspended = "NO"
        self.connected: list[str] = []

    def writable(self) -> bool:
        """Suspended: neither table spaces nor logs."""
        return self.suspended == "NO"

    def crash(self) -> None:
        """The database crashes and is restarted with WRITE RESUME by its administrator."""
        self.connected, self.suspended = [], "NO"

    def resume_quietly(self) -> None:
        """Another administrator resumes writes."""
        self.suspended = "NO"

    def suspend_quietly(self) -> None:
        """Another administrator has suspended writes."""
        self.suspended = "YES"

    def execute(self, session: int, statement: str) -> tuple[str, int]:
        """``SHELL: COMMAND``."""
        shell, _, command = statement.partition(": ")
        command = command.lower()
        if command == "db2pd":
            state = (
                "IN_PROGRESS"
                if any("write suspend" in text for text in self.running.values())
                else self.suspended
            )
            return f"Database Member 0 -- Database SAMPLE -- Active\nSUSPEND_IO    {state}    {state}", 0
        if command == "connect to sample":
            if self.suspended != "NO":
                raise Refused("(it hangs until writes are resumed)", -1)
            self.connected.append(shell)
            return (
                "   Database Connection Information\n\n Database server        = DB2/LINUXX8664 11.5.9.0",
                0,
            )
        if command == "restart database sample write resume":
            self.suspended = "NO"
            self.connected.append(shell)
            return DONE.format("RESTART DATABASE"), 0
        if command == "terminate":
            self.connected = [one for one in self.connected if one != shell]
            return DONE.format("TERMINATE"), 0
        if shell not in self.connected:
            raise Refused("SQL1024N  A database connection does not exist.  SQLSTATE=08003", 4)
        if command == "flush bufferpools all":
            return DONE.format("SQL"), 0
        if command == "set write suspend for database":
            if self.suspended != "NO":
                raise Refused("SQL1550N  The SET WRITE SUSPEND command failed.", 4)
            self.suspended = "YES"
            return DONE.format("SET WRITE"), 0
        if command == "set write resume for database":
            if self.suspended != "YES":
                raise Refused("SQL1551N  The SET WRITE RESUME command failed.", 4)
            self.suspended = "NO"
            return DONE.format("SET WRITE"), 0
        raise Refused('SQL0104N  An unexpected token was found following "BEGIN-OF-STATEMENT".', 4)


product = Db2


def db2(link: Link, arguments: list[str]) -> int:
    """``db2 COMMAND``."""
    answer = link.ask(say=f"{os.getppid()}: {' '.join(arguments)}")
    if answer.get("down"):
        say("SQL1032N  No start database manager command was issued.  SQLSTATE=57019")
        return 4
    while answer["status"] < 0:
        signal.pause()
    say(answer["text"])
    return int(answer["status"])


def db2pd(link: Link, arguments: list[str]) -> int:
    """``db2pd -db NAME -dbcfg``: without a connection and without waiting."""
    if not re.fullmatch("-db sample -dbcfg", " ".join(arguments), re.IGNORECASE):
        say("Invalid option")
        return 1
    answer = link.ask(say=f"{os.getppid()}: db2pd")
    say("Database SAMPLE not activated" if answer.get("down") else answer["text"])
    return 0
