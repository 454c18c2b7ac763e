"""``app doctor``: what on this machine could make a hold fail or hang, before there is one."""

from __future__ import annotations

import os
import sys

import click

from app import cycle, verify
from app.cli.output import emit, json_option
from app.cli.validate import compile_or_report
from app.errors import Exit
from app.host import hazards
from app.host.mounts import Mount
from app.paths import CONFIG_DIRECTORY, paths
from app.plan import Framework, Freeze, Plan, Snapshot

_UNPLANNED = Plan(
    (), Freeze(True, (), (), 60.0), Snapshot("azure-backup", {}), Framework(1, 1, True, (), (), 0, 0)
)
"""Where nothing is compiled: the extension alone, which freezes everything for at most 60 seconds."""


@click.command("doctor")
@click.argument("policies", nargs=-1, metavar="[POLICY...]")
@click.option(
    "--out",
    "directory",
    default=CONFIG_DIRECTORY,
    show_default=True,
    metavar="DIR",
    help="Folder that was compiled to, without a POLICY.",
)
@json_option
def command(policies: tuple[str, ...], directory: str, as_json: bool) -> None:
    """Find what on this machine could make a hold fail or hang; change nothing.

    With a POLICY as app run would find it, otherwise as the next pre-script would. A policy's table
    [hazards] sets each one's severity: fatal, warning, ignore. Exits 4 while one is fatal; warnings
    alone exit 0.
    """
    if policies:
        freezing, found = cycle.inspect(compile_or_report(policies, as_json).plan, paths())
    else:
        directory = os.path.abspath(directory)
        compiled = os.path.lexists(f"{directory}/stillframe/manifest.json")
        plan = Plan.from_json(verify.load_plan_text(directory)) if compiled else _UNPLANNED
        freezing, found = cycle.inspect(plan, paths(), directory)
    fatal = sum(hazard.severity == hazards.FATAL for hazard in found)
    data = {
        "ok": not fatal,
        "checked_as": os.geteuid(),
        "freezing": [mount.path for mount in freezing],
        "hazards": [hazard.facts() for hazard in found],
    }
    emit(data, _text(freezing, found, fatal), as_json)
    if fatal:
        sys.exit(int(Exit.HOST))


def _text(freezing: list[Mount], found: list[hazards.Hazard], fatal: int) -> str:
    lines = []
    for hazard in found:
        lines.append(f"{hazard.severity}: {hazard}")
        lines += [f"    at stake: {hazard.stake}", f"    cure: {hazard.cure}"]
    lines.append(f"to be frozen: {', '.join(mount.path for mount in freezing) or 'nothing'}")
    if fatal:
        lines.append(f"not fit for a hold: {fatal} fatal, {len(found) - fatal} to be warned of")
    else:
        lines.append(f"fit for a hold{f', {len(found)} to be warned of' if found else ''}")
    if os.geteuid() != 0:
        lines.append("note: checked without root, which sees only its own processes and can freeze nothing")
    return "\n".join(lines)
