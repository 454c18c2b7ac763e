"""A hazard that is made in a guest, looked for by ``app doctor`` and ``app run``, and held in spite of."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from tests.vm import orders
from tests.vm.machine import Machine

LIMIT = 2.0
"""Seconds within which all is thawed, once the snapshot is taken or the freeze is given up."""

HOLD = 4.0

Events = list[dict[str, Any]]


@contextlib.contextmanager
def made(machine: Machine, make: str, undo: str) -> Iterator[str]:
    """What a script makes, until another undoes it; what the first one said."""
    try:
        yield machine.run(f"set -e\n{make}", 120).checked()
    finally:
        undone = machine.run(undo, 120)
        print(undone.output, end="")


def policy(
    machine: Machine,
    *,
    mounts: Sequence[str] = (),
    freeze: str = "",
    hazards: str = "",
    seconds: float = HOLD,
) -> None:
    """A rehearsal without an application, on all mounts or on these."""
    chosen = f"mounts = {json.dumps(list(mounts))}\n" if mounts else ""
    machine.write(
        "/etc/volumes.toml",
        f'version = 1\nname = "volumes"\nextends = "filesystem"\n[freeze]\n{chosen}{freeze}\n'
        f'[snapshot]\nprovider = "none"\nseconds = {seconds}\n[hazards]\n{hazards}\n',
    )


def doctor(machine: Machine, words: str = "/etc/volumes.toml") -> dict[str, dict[str, Any]]:
    """``app doctor``: the hazards, by name."""
    answer = machine.run(f"TMPDIR=/run app doctor --json {words}")
    found = {hazard["name"]: hazard for hazard in json.loads(answer.output)["hazards"]}
    assert answer.status == (4 if any(h["severity"] == "fatal" for h in found.values()) else 0), answer.output
    return found


def refused(machine: Machine, name: str) -> None:
    """``app run`` stops before anything is held, and names the hazard."""
    machine.run("rm -f /run/stillframe/journal")
    answer = machine.run("app run /etc/volumes.toml")
    assert answer.status == 4, answer.output
    assert f"{name}: " in answer.output
    assert machine.run("[ -e /run/stillframe/journal ]").status == 1, "no hold was begun"


def held(machine: Machine, load: str = "true") -> tuple[Events, dict[str, Any], float]:
    """A hold to its end under a load; its events, its report, and the longest that the load waited."""
    machine.run("rm -f /run/stillframe/journal /run/stalls.end")
    stalls = machine.start(f"stalls {load}", 240)
    answer = machine.run("app run --json /etc/volumes.toml 2>/run/run.err", 240)
    machine.run("touch /run/stalls.end").checked()
    events = orders.journal(machine)
    assert answer.output.startswith("{"), answer.output + machine.run("cat /run/run.err").output
    report: dict[str, Any] = json.loads(answer.output)
    waited = int(stalls.wait().checked()) / 100
    print(f"achieved {report['achieved']}, exit {report['exit']}; the longest wait: {waited:.2f} s")
    return events, report, waited


def in_time(events: Events) -> None:
    """All that was frozen is thawed within the limit of the hand-off's end."""
    ended = next(e["t"] for e in events if e["event"] == "snapshot_end")
    thawed = {e["mount"]: e["t"] for e in events if e["event"] == "thawed"}
    frozen = [e["mount"] for e in events if e["event"] == "frozen"]
    assert frozen
    print("thawed after", {mount: round(thawed[mount] - ended, 3) for mount in frozen})
    assert all(0 <= thawed[mount] - ended < LIMIT for mount in frozen)
