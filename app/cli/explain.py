"""``app explain``: what will happen, in order, and on each failure."""

from __future__ import annotations

import click

from app.cli.output import emit, json_option
from app.cli.validate import compile_or_report, policies_argument
from app.compiler.explain import explain, to_json


@click.command("explain")
@policies_argument
@json_option
def command(policies: tuple[str, ...], as_json: bool) -> None:
    """Say in plain words what will happen, in order, and what the backup will be on each failure."""
    compiled = compile_or_report(policies, as_json)
    emit(to_json(compiled), explain(compiled), as_json)
