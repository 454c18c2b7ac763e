"""``app status``: what is held and frozen just now."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click

from app import history, hold, journal
from app.cli.output import emit, json_option
from app.errors import Exit
from app.narrate import headline
from app.paths import Paths, paths


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Show the hold that is running, what is frozen and quiesced, and the last report.

    Exit status 0; 7 if a hold died and left something frozen or quiesced (app recover).
    """
    where = paths()
    found = _state(where)
    emit(found, _words(found), as_json)
    sys.exit(int(Exit.STUCK if found["left_behind"] else Exit.DONE))


def _state(where: Paths) -> dict[str, Any]:
    events = journal.read(where.journal)
    running = hold.is_locked(where)
    begin = journal.beginning(events)
    over = journal.ended(events)
    frozen, quiesced = journal.frozen_mounts(events), journal.quiesced_applications(events)
    known = history.numbers(where)
    last = history.load(where, None) if known else None
    return {
        "running": running,
        "kind": begin.get("kind") if begin and running else None,
        "since_seconds": round(time.monotonic() - begin["t"], 3) if begin and running else None,
        "processes": [
            {"role": e["role"], "pid": e["pid"], **({"app": e["app"]} if "app" in e else {})}
            for e in events
            if e["event"] == "process" and running
        ],
        "frozen": frozen,
        "quiesced": quiesced,
        "left_behind": bool(frozen or quiesced or not over or os.path.lexists(where.outstanding))
        and not running,
        "last_report": None
        if last is None
        else {k: last[k] for k in ("number", "started", "kind", "requested", "achieved", "exit")},
    }


def _words(found: dict[str, Any]) -> str:
    lines = []
    if found["running"]:
        lines.append(f"a hold is running ({found['kind']}), since {found['since_seconds']:.1f} s")
        lines += [f"  {p['role']:<9} {p['pid']} {p.get('app', '')}".rstrip() for p in found["processes"]]
    else:
        lines.append("nothing is held")
    if found["frozen"]:
        lines.append(f"frozen by us: {', '.join(found['frozen'])}")
    if found["quiesced"]:
        lines.append(f"quiesced: {', '.join(found['quiesced'])}")
    if found["left_behind"]:
        lines.append("a hold died and left this behind: run 'app recover'")
    last = found["last_report"]
    lines.append(f"last report: {headline(last).strip()}" if last else "no report yet")
    return "\n".join(lines)
