"""``app thaw``: thaw what we froze, or with ``--all`` everything."""

from __future__ import annotations

import sys

import click

from app import journal, recovery
from app.cli.output import emit, json_option
from app.errors import Exit
from app.journal import Journal
from app.paths import paths
from app.thaw import thaw_everything


@click.command()
@click.option("--all", "everything", is_flag=True, help="Thaw every filesystem of this VM, whoever froze it.")
@json_option
def command(everything: bool, as_json: bool) -> None:
    """Thaw the filesystems that our journal says we froze.

    With --all, every mounted filesystem is thawed, also one that another tool has frozen: it stops
    that tool's snapshot from being consistent. Exit status 7 if one could not be thawed.
    """
    where = paths()
    if everything:
        thawed, stuck = thaw_everything()
    else:
        events = journal.read(where.journal)
        thawed, stuck = (
            recovery.thaw_journal(where, Journal(where.journal))
            if journal.frozen_mounts(events)
            else ([], [])
        )
    text = "\n".join([*(f"{path}: thawed" for path in thawed), *(f"{s}: NOT thawed" for s in stuck)])
    emit({"thawed": thawed, "stuck": stuck}, text or "nothing of ours was frozen", as_json)
    sys.exit(int(Exit.STUCK if stuck else Exit.DONE))
