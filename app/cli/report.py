"""``app report``: what earlier holds achieved."""

from __future__ import annotations

import click

from app import history
from app.cli.output import emit, json_option
from app.narrate import headline, narrate
from app.paths import paths


@click.command()
@click.argument("number", type=int, required=False)
@click.option("--list", "as_list", is_flag=True, help="One line for each report that is kept.")
@json_option
def command(number: int | None, as_list: bool, as_json: bool) -> None:
    """Show report NUMBER, or the newest. The last hundred are kept."""
    where = paths()
    if as_list:
        found = [history.load(where, each) for each in history.numbers(where)]
        short = [
            {k: r[k] for k in ("number", "started", "kind", "requested", "achieved", "exit")} for r in found
        ]
        emit(short, "\n".join(headline(r) for r in found) or "there is no report yet", as_json)
        return
    report = history.load(where, number)
    emit(report, narrate(report), as_json)
