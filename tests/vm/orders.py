"""What runs in the guest: SQLite databases under a writer, a server that can be paused, their policies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.vm.machine import Answer, Machine, Pending

DATABASES = ("/srv/orders/orders.db", "/data/orders.db")
"""On the root, and on the data disk."""


def sqlite(databases: Sequence[str]) -> str:
    """A policy for these databases; ``[snapshot]`` is still to be added."""
    return f"""\
version = 1
name = "orders"
extends = "sqlite"

[settings]
databases = {json.dumps(databases)}

"""


SQLITE = sqlite(DATABASES)

PAUSABLE = """\
version = 1
name = "orders"
extends = "example-custom"

"""

TAKEN_BY_HOST = """\
[snapshot]
provider = "command"
argv = ["/usr/local/bin/take-snapshot"]
deadline = 60
"""


def start_writer(machine: Machine, databases: Sequence[str] = DATABASES) -> None:
    """Commits to all databases, and into the ledger that the host keeps."""
    make = "PRAGMA journal_mode=wal; CREATE TABLE ledger (number INTEGER PRIMARY KEY, body BLOB);"
    for database in databases:
        machine.run(f"sqlite3 {database} '{make}'").checked()
    machine.run(f"setsid writer {' '.join(databases)} >/run/writer.out 2>&1 3>&- &").checked()
    machine.wait_for_commits(3)


def committed(machine: Machine, database: str) -> set[int]:
    """Numbers of the commits in a database of the guest."""
    output = machine.run(f"sqlite3 {database} 'SELECT number FROM ledger'").checked()
    return {int(line) for line in output.split()}


def start_server(machine: Machine) -> None:
    """The server of ``example-custom``, run by its own user."""
    user = "setpriv --reuid=orders --regid=orders --clear-groups"
    machine.run(f"{user} setsid orders-server </dev/null >/run/orders.out 2>&1 3>&- &").checked()
    machine.run("until [ -s /var/lib/orders/journal ]; do sleep 0.2; done").checked()


def start_cycle(machine: Machine, policy: str, seconds: float = 180) -> Pending:
    """``app run`` in the guest with a policy of this text."""
    machine.write("/etc/orders.toml", policy)
    return machine.start("exec app run /etc/orders.toml --json 2>/run/run.err", seconds)


def report(cycle: Pending, answer: Answer | None = None) -> dict[str, Any]:
    """The report that ``app run --json`` printed, or is about to (``answer`` absent)."""
    answer = answer or cycle.wait()
    try:
        found: dict[str, Any] = json.loads(answer.output)
    except ValueError:
        raise AssertionError(f"status {answer.status}: {answer.output}") from None
    assert found["exit"] == answer.status
    return found


def journal(machine: Machine) -> list[dict[str, Any]]:
    """The events of the hold so far; none before the first."""
    lines = machine.run("cat /run/stillframe/journal 2>/dev/null || true").checked().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def awaited(machine: Machine, condition: str, seconds: float = 150) -> list[dict[str, Any]]:
    """Wait until a shell's condition holds in the folder of the journal; the events so far.

    The guest itself waits, with little work: an emulated processor has none to spare while time is measured.
    """
    script = f"until cd /run/stillframe; do sleep 0.2; done 2>&-; until {condition}; do sleep 0.2; done"
    answer = machine.run(script, seconds)
    events = journal(machine)
    assert answer.status == 0, f"not within {seconds} s: {condition}: {events[-3:]}"
    return events


def frozen_root(machine: Machine, seconds: float = 150) -> list[dict[str, Any]]:
    """Wait until a hold has frozen /; its events so far."""
    # The journal of the hold before this one stands there until the next begins.
    frozen, over = (f'grep -qs \'"event":"{event}\' journal' for event in ('frozen","mount":"/"', 'end"'))
    return awaited(machine, f"{frozen} && ! {over}", seconds)


def seconds_of_steps(events: Sequence[dict[str, Any]], since: float) -> float:
    """What the applications' own programs took since then, which is theirs, and long where it is emulated."""
    return sum(float(e["seconds"]) for e in events if e["event"] == "step" and e["t"] > since)
