"""A stand-in for SAP HANA and its hdbsql: the backup catalog and what a data snapshot does to it."""

from __future__ import annotations

import itertools
import re
from typing import Any

from tests.standins.product import Link, Product, Refused, queries, rows, say

COLUMNS = (
    "ENTRY_ID",
    "ENTRY_TYPE_NAME",
    "BACKUP_ID",
    "SYS_START_TIME",
    "SYS_END_TIME",
    "STATE_NAME",
    "COMMENT",
)


class Hana(Product):
    """One system. The catalog is on disk and outlives a restart; a prepared snapshot does not."""

    numbers = itertools.count(1700000000001)

    def __init__(self) -> None:
        super().__init__()
        self.catalog: list[dict[str, Any]] = [{"id": 1600000000001, "state": "successful", "comment": "x"}]
        self.broken: list[int] = []

    @property
    def prepared(self) -> int:
        """Data snapshots that are open."""
        return sum(1 for entry in self.catalog if entry["state"] == "prepared")

    def service_restarted(self) -> None:
        """A service of a tenant was restarted: the snapshot stays in the catalog and cannot be confirmed."""
        self.broken = [entry["id"] for entry in self.catalog if entry["state"] == "prepared"]

    def others(self) -> None:
        """Another administrator's snapshot."""
        self._create("nightly")

    def close_quietly(self) -> None:
        """Another administrator closes ours and makes his own, by the same comment."""
        for entry in self.catalog:
            if entry["state"] == "prepared":
                entry["state"] = "failed"
        self._create("stillframe")

    def execute(self, session: int, statement: str) -> tuple[str, int]:
        """One statement."""
        plain = " ".join(statement.split())
        if plain.startswith("SELECT "):
            return self._select(plain), 0
        if made := re.fullmatch(r"BACKUP DATA FOR FULL SYSTEM CREATE SNAPSHOT COMMENT '([^']*)'", plain):
            self._create(made[1])
        elif closed := re.fullmatch(
            r"BACKUP DATA FOR FULL SYSTEM CLOSE SNAPSHOT BACKUP_ID (\d+) (SUCCESSFUL|UNSUCCESSFUL) '[^']*'",
            plain,
        ):
            self._close(int(closed[1]), closed[2])
        else:
            raise Refused("* 257: sql syntax error: incorrect syntax SQLSTATE: HY000", 3)
        return "", 0

    def _create(self, comment: str) -> None:
        if self.prepared:
            raise Refused(
                "* 447: backup could not be completed, [110508] A data snapshot is already prepared", 3
            )
        self.catalog.append({"id": next(self.numbers), "state": "prepared", "comment": comment})

    def _close(self, number: int, how: str) -> None:
        for entry in self.catalog:
            if entry["id"] == number and entry["state"] == "prepared":
                if how == "UNSUCCESSFUL" or number in self.broken:
                    entry["state"] = "failed"
                    if how == "SUCCESSFUL":
                        raise Refused(
                            "* 447: backup could not be completed, snapshot is not valid any more", 3
                        )
                else:
                    entry["state"] = "successful"
                return
        raise Refused("* 447: backup could not be completed, no prepared data snapshot with that id", 3)

    def _select(self, statement: str) -> str:
        running = [{"id": 0, "state": "running", "comment": "stillframe"} for _ in self.running]
        content = [
            (entry["id"], "data snapshot", entry["id"], "", "", entry["state"], entry["comment"])
            for entry in [*self.catalog, *running]
        ]
        found = rows(queries({"M_BACKUP_CATALOG": (COLUMNS, content)}), statement, {})
        # With -a and -x: no heading, no summary; what is text stands in double quotes.
        return "\n".join(",".join(f'"{c}"' if isinstance(c, str) else str(c) for c in row) for row in found)


product = Hana


def hdbsql(link: Link, arguments: list[str]) -> int:
    """``hdbsql -U KEY -a -x -j STATEMENT``: one statement, then the end."""
    if arguments[:1] != ["-U"] or set(arguments[2:-1]) != {"-a", "-x", "-j"}:
        say("hdbsql: wrong options")
        return 1
    if arguments[1] != "BACKUPKEY":
        say("* -10104: Invalid value for KEY SQLSTATE: HY000")
        return 43
    answer = link.ask(say=arguments[-1])
    if answer.get("down"):
        say("* -10709: Connection failed (RTE:[89006] System call 'connect' failed) SQLSTATE: 08000")
        return 43
    say(answer["text"])
    return int(answer["status"])
