"""A stand-in for SQL Server 2022 and its sqlcmd: suspended databases, and the session that they hang on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

from tests.standins.product import Link, Product, Refused, queries, rows, say

STATUS = (
    "db_id",
    "db_name",
    "suspend_session_id",
    "suspend_time_ms",
    "is_diff_map_cleared",
    "is_write_io_frozen",
)
CONNECTIONS = ("session_id", "connection_id", "parent_connection_id")
REQUESTS = ("session_id", "connection_id", "command")
DATABASES = ("database_id", "name")

SUSPENDABLE = ["orders", "sales"]
SYSTEM = ["master", "tempdb", "model", "msdb"]


class SqlServer(Product):
    """One server with two user databases."""

    def __init__(self) -> None:
        super().__init__()
        self.major = "16"
        self.owner: int | None = None
        self.suspended: list[str] = []
        self.thawing = False
        self.backups: list[str] = []
        self.reconnects = 0
        self.fixed = True

    def writable(self) -> bool:
        """Whether a user database can write."""
        return not self.suspended

    def ended(self, session: int) -> None:
        """The locks of a suspension belong to its session; by KB5048510 databases may stay suspended."""
        if session == self.owner:
            self.owner, self.suspended = None, [] if self.fixed else self.suspended

    def off_quietly(self) -> None:
        """The suspension of one database is lost."""
        self.suspended = self.suspended[:1]

    def others(self) -> None:
        """Another session has suspended a database."""
        self.owner, self.suspended = 9, ["sales"]

    def connect_again(self) -> None:
        """The driver of the client connects anew, without a word to anybody: what hung on it is lost."""
        self.reconnects += 1
        self.owner, self.suspended = None, []

    def execute(self, session: int, statement: str) -> tuple[str, int]:
        """One batch of one statement."""
        plain = " ".join(statement.split())
        if condition := re.match(r"IF (.+?) = 1 (ALTER .*)", plain):
            found = self._select(session, f"SELECT {condition[1]}")
            return self.execute(session, condition[2]) if int(found) == 1 else ("", 0)
        if built := re.fullmatch(
            r"DECLARE (@\w+) nvarchar\(max\) = N''; SELECT \1 \+= (.*); EXEC \(\1\)", plain
        ):
            for one in "".join(self._select(session, f"SELECT {built[2]}").splitlines()).split("; "):
                self.execute(session, one) if one else None
            return "", 0
        if plain.startswith("SELECT "):
            return self._select(session, plain), 0
        if re.fullmatch(r"SET NOCOUNT ON", plain):
            return "", 0
        if printed := re.fullmatch(r"PRINT '([^']*)'", plain):
            return printed[1], 0
        if plain == "ALTER SERVER CONFIGURATION SET SUSPEND_FOR_SNAPSHOT_BACKUP = ON (MODE = COPY_ONLY)":
            if self.suspended:
                raise Refused(
                    "Msg 3081, Level 16, State 3, Server x, Line 1\nA database is suspended already."
                )
            self.owner, self.suspended = session, list(SUSPENDABLE)
            return "\n".join(
                f'Database "{name}" successfully suspended for snapshot backup in session {session}.'
                for name in self.suspended
            ), 0
        if plain == "ALTER SERVER CONFIGURATION SET SUSPEND_FOR_SNAPSHOT_BACKUP = OFF":
            self._needs(session)
            self.owner, self.suspended = None, [] if self.fixed else self.suspended[1:]
            return "", 0
        if named := re.fullmatch(r"ALTER DATABASE \[(.*)\] SET SUSPEND_FOR_SNAPSHOT_BACKUP = OFF", plain):
            if named[1] not in self.suspended or self.owner not in (None, session):
                raise Refused(
                    "Msg 3082, Level 16, State 1, Server x, Line 1\nIt is not suspended by this session."
                )
            self.suspended.remove(named[1])
            return "", 0
        if written := re.fullmatch(r"BACKUP SERVER TO DISK = '([^']+)' WITH METADATA_ONLY, FORMAT", plain):
            self._needs(session)
            self.owner, self.suspended = None, [] if self.fixed else self.suspended[1:]
            self.backups.append(written[1])
            return "BACKUP SERVER successfully processed 0 pages in 0.012 seconds (0.000 MB/sec).", 0
        raise Refused("Msg 102, Level 15, State 1, Server x, Line 1\nIncorrect syntax.")

    def _needs(self, session: int) -> None:
        if session != self.owner or not self.suspended:
            raise Refused(
                "Msg 3082, Level 16, State 1, Server x, Line 1\nNo database is suspended by this session."
            )

    def _select(self, session: int, statement: str) -> str:
        content: dict[str, Any] = {
            "sys.dm_server_suspend_status": (
                STATUS,
                [(5 + n, name, self.owner, 12, 0, 1) for n, name in enumerate(self.suspended)],
            ),
            "sys.dm_exec_requests": (
                REQUESTS,
                [(number, f"GUID-{number}-{self.reconnects}", text) for number, text in self.running.items()],
            ),
            "sys.databases": (DATABASES, list(enumerate([*SYSTEM, *SUSPENDABLE], 1))),
            "sys.dm_exec_connections": (CONNECTIONS, [(session, f"GUID-{session}-{self.reconnects}", None)]),
        }
        properties = {
            "SuspendedDatabaseCount": len(self.suspended) if self.fixed else 0,
            "IsServerSuspendedForSnapshotBackup": int(self.owner is not None),
            "ProductMajorVersion": self.major,
        }
        # T-SQL for SQLite: CONVERT(type, value), N'...', +, @@SPID.
        text = re.sub(r"CONVERT\((varchar|int)(?:\(\d+\))?, ", r"convert_to('\1', ", statement)
        text = re.sub(r"\bN'", "'", text).replace(" + ", " || ").replace("@@SPID", str(session))
        functions: dict[str, Callable[..., Any]] = {
            "convert_to": lambda kind, value: (
                int(value or 0) if kind == "int" else str(value or 0) if value is not None else "NULL"
            ),
            "SERVERPROPERTY": properties.get,
            "DATABASEPROPERTYEX": lambda name, what: (
                int(name in self.suspended) if what == "IsDatabaseSuspendedForSnapshotBackup" else None
            ),
            "QUOTENAME": lambda name: "[" + name.replace("]", "]]") + "]",
        }
        return "\n".join(" ".join(map(str, row)) for row in rows(queries(content, "sys"), text, functions))


product = SqlServer


def sqlcmd(link: Link, arguments: list[str]) -> int:
    """sqlcmd with batches on stdin; as older ones do it prints prompts to a pipe, too."""
    if (os.environ.get("SQLCMDUSER"), os.environ.get("SQLCMDPASSWORD")) != ("backup", "s3cret"):
        say("Sqlcmd: Error: Microsoft ODBC Driver 18 for SQL Server : Login failed for user ''..")
        return 1
    wanted = {"-S": "tcp:localhost,1433", "-d": "master", "-h": "-1", "-w": "8000"}
    if any(arguments[arguments.index(k) + 1] != v for k, v in wanted.items()) or not {"-W", "-x", "-C"} <= {
        *arguments
    }:
        say("Sqlcmd: Error: wrong options")
        return 1
    batch: list[str] = []
    while True:
        sys.stdout.write(f"{len(batch) + 1}> ")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line or line.strip().upper() == "EXIT":
            return 0
        if line.strip().upper() != "GO":
            batch.append(line)
            continue
        try:
            answer = link.ask(say="".join(batch))
        except (EOFError, OSError):
            answer = {"down": True}
        batch = []
        if answer.get("down"):
            say("Sqlcmd: Error: Microsoft ODBC Driver 18 for SQL Server : TCP Provider: Error code 0x68.")
            return 1
        say(answer["text"])
