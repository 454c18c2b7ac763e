"""``app prove``: start an application on a restored copy and check it."""

from __future__ import annotations

import os
import sys

import click

from app import compiler, prove
from app.cli.output import emit, json_option, tell
from app.cli.policies import read_trusted
from app.errors import Exit, Misused
from app.masking import shorten


@click.command()
@click.argument("policy", metavar="POLICY")
@click.option(
    "--data",
    required=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="The restored copy: a writable clone of a snapshot. It is written to.",
)
@json_option
def command(policy: str, data: str, as_json: bool) -> None:
    """Start POLICY's application on the copy in DIR, run its checks, and stop it.

    DIR must be a clone: the application recovers in it. For a server it is the server's data
    folder; for sqlite, the folder that holds the restored volume. Exit status 0 if every check
    passed, 1 if not, 4 if the copy cannot be tried.
    """
    plan = compiler.compile_paths([policy], read=read_trusted).plan
    if not plan.applications:
        raise Misused(f"{policy}: has no application to prove")
    proof = prove.prove(plan.applications[0], data, tell)
    what = f"{plan.applications[0].name}: {'proven' if proof.proven else f'NOT proven: {proof.reason}'}"
    what += "".join(f"\n  {name:16} {shorten(value)}" for name, value in sorted(proof.found.items()) if value)
    emit(
        {"application": plan.applications[0].name, "data": os.path.realpath(data), **proof.to_json()},
        what,
        as_json,
    )
    sys.exit(int(Exit.DONE if proof.proven else Exit.DIFFERS))
