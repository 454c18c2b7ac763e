"""A stand-in for mongod and mongosh: the count of fsync locks. JavaScript is evaluated by node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.standins.product import Link, Product, Refused, say


class MongoDB(Product):
    """One mongod. Locks are counted, belong to no connection, and end with the process."""

    def __init__(self) -> None:
        super().__init__()
        self.locks = 0
        self.router = False
        self.secondary = False
        self.unlocks = 0
        self.before_44 = False

    def writable(self) -> bool:
        """Locked: nobody writes."""
        return self.locks == 0

    def unlock_quietly(self) -> None:
        """Another administrator's unlock."""
        self.locks = max(0, self.locks - 1)

    def lock_quietly(self) -> None:
        """Another administrator's lock."""
        self.locks += 1

    def execute(self, session: int, statement: str) -> tuple[str, int]:
        """One command of the admin database, as JSON; the answer is JSON, too."""
        command = json.loads(statement)
        name = next(iter(command))
        handlers = {
            "hello": self._hello,
            "currentOp": self._current,
            "fsync": self._fsync,
            "fsyncUnlock": self._unlock,
            "killOp": self._kill,
        }
        if name not in handlers:
            raise Refused(json.dumps({"ok": 0, "errmsg": f"no such command: '{name}'", "code": 59}))
        return json.dumps({**handlers[name](command), "ok": 1}), 0

    def _hello(self, _: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = {"isWritablePrimary": not self.secondary, "secondary": self.secondary}
        if not self.before_44:
            answer["topologyVersion"] = {"processId": self.born, "counter": 6}
        return {**answer, "msg": "isdbgrid"} if self.router else answer

    def _current(self, command: dict[str, Any]) -> dict[str, Any]:
        found = [{"opid": number, "command": json.loads(text)} for number, text in self.running.items()]
        wanted = command.get("command.comment")
        found = [o for o in found if wanted is None or o["command"].get("comment") == wanted]
        # Only where it is locked does the field stand there.
        return {
            "inprog": found,
            **({"fsyncLock": True, "info": "use db.fsyncUnlock()"} if self.locks else {}),
        }

    def _fsync(self, command: dict[str, Any]) -> dict[str, Any]:
        if command.get("lock") is not True:
            return {"numFiles": 1}
        self.locks += 1
        return {"info": "now locked against writes, use db.fsyncUnlock() to unlock", "lockCount": self.locks}

    def _unlock(self, _: dict[str, Any]) -> dict[str, Any]:
        if not self.locks:
            raise Refused(json.dumps({"ok": 0, "errmsg": "fsyncUnlock called when not locked", "code": 20}))
        self.locks -= 1
        self.unlocks += 1
        return {"info": "fsyncUnlock completed", "lockCount": self.locks}

    def _kill(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"info": "attempting to kill op"}


product = MongoDB


def mongosh(link: Link, arguments: list[str]) -> int:
    """``mongosh --quiet --norc URI`` with lines on stdin: node, with the connection as descriptor 3."""
    return _shell("mongosh", link, arguments)


def mongo(link: Link, arguments: list[str]) -> int:
    """The old shell: the same arguments and statements, other words."""
    return _shell("mongo", link, arguments)


def _shell(name: str, link: Link, arguments: list[str]) -> int:
    node = shutil.which("node")
    if (
        node is None
        or {*arguments[:2]} != {"--quiet", "--norc"}
        or not arguments[-1].startswith("mongodb://")
    ):
        say("Error: wrong options")
        return 1
    if link.ask(say='{"hello": 1}').get("down"):
        say("MongoNetworkError: connect ECONNREFUSED 127.0.0.1:27017")
        return 1
    os.dup2(link.socket.fileno(), 3)
    return subprocess.call([node, str(Path(__file__).with_name("mongosh.js")), name], pass_fds=[3])
