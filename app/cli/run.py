"""``app run``: one whole cycle."""

from __future__ import annotations

import contextlib
import sys

import click

from app import compiler, cycle
from app.cli.output import emit, json_option, tell
from app.cli.policies import read_trusted
from app.narrate import narrate
from app.paths import paths


@click.command()
@click.argument("policies", nargs=-1, required=True, metavar="POLICY...")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@json_option
def command(policies: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Quiesce, freeze, snapshot, thaw, release, and report the consistency level reached.

    Nothing is printed while a filesystem is frozen. Exit status: 0 the level asked for was reached;
    1 a lower one; 3 a policy is invalid; 4 this machine is not fit; 5 another hold is running, or
    somebody else has frozen a filesystem; 6 no snapshot; 7 something could not be thawed or released.
    """

    def progress(text: str) -> None:
        if not quiet:
            with contextlib.suppress(OSError):  # nobody reads it: the hold matters more
                tell(text)

    compiled = compiler.compile_paths(policies, read=read_trusted)
    report = cycle.run(compiled.plan, paths(), progress)
    emit(report, narrate(report), as_json)
    sys.exit(report["exit"])
