"""A stand-in for Db2, its command line processor and db2pd: suspend_io and the connection it hangs on.

A ``db2`` command ends at once; what keeps the connection is its back end, one for each shell that starts
commands. Here the number of that shell stands for it, and it ends with that shell. Like the real one, db2pd
prints settings by their descriptions and not by their names, and nothing of a database that is not active.
"""

from __future__ import annotations

import os
import re
import signal

from tests.standins.product import Link, Product, Refused, say

DONE = "DB20000I  The {0} command completed successfully."

SETTINGS = """
Database Member 0 -- Database SAMPLE -- Active -- Up 0 days 00:12:43 -- Date 2024-05-06-07.08.09.000000

Database Configuration Settings:
Description                                   Memory Value                                  Disk Value
DB configuration release level                0x1500                                        0x1500
Database is consistent                        NO                                            NO
Rollforward pending                           NO                                            NO
Database is in write suspend state            {0:<46}{0}
HADR database role                            STANDARD                                      STANDARD
"""

INACTIVE = """
Database SAMPLE not activated on database member 0 or this database name cannot be found in the local \
database directory.

Option -dbcfg requires -db <database> or -alldbs option and active database.
"""

DOWN = """
Unable to attach to database manager on member 0.
Please ensure the following are true:
   - db2start has been run for the member.
"""


class Db2(Product):
    """One instance with one database, SAMPLE."""

    def __init__(self) -> None:
        super().__init__()
        self.suspended = "NO"
        self.connected: list[str] = []
        self.activated = True

    @property
    def active(self) -> bool:
        """By ACTIVATE DATABASE, or for as long as somebody is connected; nor does it end while suspended."""
        return self.activated or bool(self.connected) or self.suspended != "NO"

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
        self.connected = [one for one in self.connected if os.path.exists(f"/proc/{one}")]
        command = command.lower()
        if command == "db2pd":
            suspending = any("write suspend" in text for text in self.running.values())
            state = "IN_PROGRESS" if suspending else self.suspended
            return (SETTINGS.format(state) if self.active else INACTIVE), 0
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
    say(DOWN if answer.get("down") else answer["text"])
    return 0
