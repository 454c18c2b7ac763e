"""A stand-in for Oracle Database and its sqlplus: v$backup and what BEGIN and END BACKUP do to it."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

from tests.standins.product import Functions, Link, Product, Refused, queries, rows, say

VIEWS = {
    "v$instance": ("instance_name", "version", "startup_time"),
    "v$database": ("log_mode", "database_role", "open_mode", "current_scn"),
    "v$backup": ("file_no", "status", "change_no", "time", "con_id"),
    "v$datafile": ("file_no", "status", "enabled", "con_id"),
    "v$pdbs": ("con_id", "name", "open_mode"),
    "v$session": ("sid", "serial_no", "status", "command"),
    "dual": ("dummy",),
}
"""The columns that are used, as Oracle's Reference has them; SQLite knows no # in a name."""

FORMATS = {"YYYY": "%Y", "MM": "%m", "DD": "%d", "HH24": "%H", "MI": "%M", "SS": "%S"}
"""Elements of a format model, and what they are for Python."""


def to_char(value: object, model: str = "") -> str:
    """TO_CHAR of a number, or of a time as it is kept here; what follows its seconds stays."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(.*)", str(value))
    if not found:
        return str(value)
    plain = re.sub("|".join(FORMATS), lambda element: FORMATS[element[0]], model)
    return time.strftime(plain, time.strptime(found[1], "%Y-%m-%d %H:%M:%S")) + found[2]


class Oracle(Product):
    """One instance. A container database: the root, the seed, an open and a closed pluggable database."""

    def __init__(self) -> None:
        super().__init__()
        self.version = "19.0.0.0.0"
        self.log_mode = "ARCHIVELOG"
        self.role = "PRIMARY"
        self.scn = 1000
        self.archived = 0
        self.gone: list[int] = []
        self.reused = False
        self.files = [
            self._file(1, "SYSTEM", "READ WRITE", 1),
            self._file(2, "ONLINE", "READ WRITE", 2),
            self._file(3, "SYSTEM", "READ WRITE", 3),
            self._file(4, "ONLINE", "READ ONLY", 3),
            self._file(5, "OFFLINE", "READ WRITE", 3),
            self._file(6, "SYSTEM", "READ WRITE", 4),
        ]
        self.databases = {2: ("PDB$SEED", "READ ONLY"), 3: ("SALES", "READ WRITE"), 4: ("OLD", "MOUNTED")}

    @staticmethod
    def _file(number: int, status: str, enabled: str, container: int) -> dict[str, Any]:
        return {"number": number, "status": status, "enabled": enabled, "container": container, "since": None}

    def ended(self, session: int) -> None:
        """Its SID is free for another."""
        self.gone.append(session)

    @property
    def active(self) -> int:
        """Files in backup mode."""
        return sum(1 for file in self.files if file["since"])

    def end_quietly(self) -> None:
        """What another administrator does."""
        for file in self.files:
            file["since"] = None

    def begin_again(self) -> None:
        """Another administrator ends backup mode and begins it anew."""
        self.end_quietly()
        self._begin()

    def execute(self, session: int, statement: str) -> tuple[str, int]:
        """One statement without its semicolon."""
        self.scn += 1
        plain = " ".join(statement.split())
        if plain.upper().startswith("SELECT "):
            return self._select(session, plain), 0
        commands = {
            "ALTER DATABASE BEGIN BACKUP": self._begin,
            "ALTER DATABASE END BACKUP": self._end,
            "ALTER SYSTEM ARCHIVE LOG CURRENT": self._archive,
            "ALTER SYSTEM CHECKPOINT": self._checkpoint,
        }
        if plain.upper() not in commands:
            raise Refused("ERROR at line 1:\nORA-00900: invalid SQL statement")
        commands[plain.upper()]()
        return "", 0

    def _begin(self) -> None:
        if self.log_mode != "ARCHIVELOG":
            raise Refused("ORA-01123: cannot start online backup; media recovery not enabled")
        if self.active:
            raise Refused("ORA-01146: cannot start online backup - file 1 is already in backup")
        for file in self.files:
            databases = {} if self.version.startswith("11.") else self.databases
            readable = databases.get(file["container"], ("", "READ WRITE"))[1] == "READ WRITE"
            if file["enabled"] == "READ WRITE" and file["status"] != "OFFLINE" and readable:
                file["since"] = (self.scn, time.strftime("%Y-%m-%d %H:%M:%S"))

    def _end(self) -> None:
        if not self.active:
            raise Refused("ORA-01142: cannot end online backup - none of the files are in backup")
        self.end_quietly()

    def _checkpoint(self) -> None:
        self.scn += 1

    def _archive(self) -> None:
        if self.log_mode != "ARCHIVELOG":
            raise Refused("ORA-00258: manual archiving in NOARCHIVELOG mode must identify log")
        self.archived += 1

    def _sessions(self, asking: int) -> list[tuple[int, int, str, int]]:
        """V$SESSION. ``reused``: others have got the SIDs of those that are gone, and move data files."""
        texts = {asking: "SELECT", **self.running}
        found = [
            (number, 7000 + number, "ACTIVE", 35 if text.upper().startswith("ALTER DATABASE") else 3)
            for number, text in texts.items()
        ]
        return found + [(number, 8000 + number, "ACTIVE", 35) for number in self.gone if self.reused]

    def _select(self, session: int, statement: str) -> str:
        older = self.version.startswith("11.")
        backup = [
            (
                f["number"],
                "ACTIVE" if f["since"] else "NOT ACTIVE",
                f["since"][0] if f["since"] else 0,
                f["since"][1] if f["since"] else None,
                f["container"],
            )
            for f in self.files
        ]
        content: dict[str, list[tuple[Any, ...]]] = {
            "v$instance": [("ORCL", self.version, self.born)],
            "v$database": [(self.log_mode, self.role, "READ WRITE", self.scn)],
            "v$backup": backup,
            "v$datafile": [(f["number"], f["status"], f["enabled"], f["container"]) for f in self.files],
            "v$pdbs": [(number, name, mode) for number, (name, mode) in self.databases.items()],
            "v$session": self._sessions(session),
            "dual": [("X",)],
        }
        if older and re.search(r"con_id|v\$pdbs", statement):
            raise Refused('ORA-00904: "D"."CON_ID": invalid identifier')
        functions: Functions = {
            "TO_CHAR": to_char,
            "TO_NUMBER": int,
            "SYS_CONTEXT": lambda space, name: str(session) if (space, name) == ("USERENV", "SID") else None,
            "REGEXP_SUBSTR": lambda text, pattern: (re.search(pattern, text) or [""])[0],
        }
        database = queries({name: (VIEWS[name], content[name]) for name in VIEWS})
        text = re.sub(r"\b(file|change|serial)#", r"\1_no", statement)
        text = re.sub(r"\bSYSTIMESTAMP\b", f"'{time.strftime('%Y-%m-%d %H:%M:%S')}'", text)
        return "\n".join(
            " ".join("" if cell is None else str(cell) for cell in row)
            for row in rows(database, text, functions)
        )


product = Oracle


def sqlplus(link: Link, arguments: list[str]) -> int:
    """``sqlplus -S -L "/ as sysbackup"`` with statements on stdin, as a pipe."""
    if arguments[:2] != ["-S", "-L"] or arguments[2:] not in (["/ as sysbackup"], ["/ as sysdba"]):
        say("SP2-0306: Invalid option.")
        return 1
    # What a session does before its first statement shows whether there is an instance.
    if link.ask(say="SELECT 1 FROM v$instance").get("down"):
        say("ERROR:\nORA-01034: ORACLE not available\nSP2-0751: Unable to connect to Oracle.")
        return 1
    pending: list[str] = []
    for line in sys.stdin:
        word = line.strip()
        if not pending and re.match(r"(?i)set\s", word):
            continue
        if not pending and re.match(r"(?i)prompt\s", word):
            say(word.split(None, 1)[1])
        elif not pending and word.upper() == "EXIT":
            return 0
        elif word:
            pending.append(word)
            if word.endswith(";"):
                _run(link, " ".join(pending).removesuffix(";"))
                pending = []
    return 0


def _run(link: Link, statement: str) -> None:
    try:
        answer = link.ask(say=statement)
    except (EOFError, OSError):
        answer = {"down": True}
    if answer.get("down"):
        say("ERROR at line 1:\nORA-03113: end-of-file on communication channel")
    elif answer["text"]:
        say(answer["text"])
