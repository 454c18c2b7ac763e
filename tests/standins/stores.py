"""What the policies of databases without SQL are tried with."""

from __future__ import annotations

from collections.abc import Callable

from tests.standins.case import Case, Wrong
from tests.standins.ground import USER, Standin


def _mongodb(client: str) -> Callable[[Standin], str]:
    def text(at: Standin) -> str:
        return f"""
            extends = "mongodb"
            [settings]
            os_user = "{USER}"
            client = "{at.program(client)}"
            """

    return text


def _locked_unseen(at: Standin) -> None:
    """Somebody locks right after the policy has looked: that lock must still be there in the end."""
    at.call("lock_quietly")
    at.rig("currentOp", answer='{"ok": 1, "inprog": []}')


MONGODB = (
    Case(
        "mongodb",
        "mongodb",
        _mongodb("mongosh"),
        state="locks",
        idle=0,
        held=1,
        still=True,
        client="mongosh.js",
        quiesces='"fsync": 1|"fsync":1',
        undone="fsyncUnlock",
        saved=("lock_count",),
        wrong=(
            Wrong("somebody else's", "locked true", before=lambda at: at.call("lock_quietly"), left=1),
            Wrong("unlocked by another", "locked false", during=lambda at: at.call("unlock_quietly")),
            Wrong("restarted", "session was", during=lambda at: at.call("restart")),
            Wrong("before 4.4", "TypeError", before=lambda at: at.put("before_44", True)),
            Wrong("mongos", "mongos", before=lambda at: at.put("router", True)),
            Wrong("down", "ECONNREFUSED", before=lambda at: at.put("up", False)),
            Wrong(
                "no right",
                "not authorized",
                before=lambda at: at.rig("fsync", answer='{"ok": 0, "errmsg": "not authorized"}'),
            ),
            Wrong("locked between", "lockCount 2", before=_locked_unseen, left=1),
        ),
    ),
    Case(
        "mongodb with mongo",
        "mongodb",
        _mongodb("mongo"),
        state="locks",
        idle=0,
        held=1,
        still=True,
        client="mongosh.js",
        quiesces='"fsync": 1|"fsync":1',
        undone="fsyncUnlock",
        wrong=(
            Wrong("restarted", "session was", during=lambda at: at.call("restart")),
            Wrong("before 4.4", "TypeError", before=lambda at: at.put("before_44", True)),
        ),
    ),
)


def _nodetool(name: str) -> Callable[[Standin], str]:
    def text(at: Standin) -> str:
        return f"""
            extends = "{name}"
            [settings]
            os_user = "{USER}"
            nodetool = "{at.program("nodetool")}"
            """

    return text


CASSANDRA = tuple(
    Case(
        name,
        "cassandra",
        _nodetool(name),
        level="filesystem",
        session=False,
        saved=("node",),
        wrong=(
            Wrong("another node", "before", during=lambda at: at.call("replaced")),
            Wrong("down", "Failed to connect", before=lambda at: at.put("up", False)),
            Wrong("flush fails", "status 2", before=lambda at: at.rig("flush", answer="error: x", status=2)),
        ),
    )
    for name in ("cassandra", "scylla")
)


def _curl(name: str) -> Callable[[Standin], str]:
    def text(at: Standin) -> str:
        return f"""
            extends = "{name}"
            [settings]
            os_user = "{USER}"
            curl = "{at.program("curl")}"
            """

    return text


ELASTIC = tuple(
    Case(
        name,
        "elastic",
        _curl(name),
        level="crash",
        session=False,
        saved=("node",),
        wrong=(
            Wrong("restarted", "before", during=lambda at: at.call("restart")),
            Wrong("down", "Failed to connect", before=lambda at: at.put("up", False)),
            Wrong("shards fail", "failed", before=lambda at: at.put("failing", 1)),
        ),
    )
    for name in ("elasticsearch", "opensearch")
)

STORES = (*MONGODB, *CASSANDRA, *ELASTIC)
