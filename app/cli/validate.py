"""``app validate``: everything that is wrong with policies, at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import click

from app.cli.output import emit, json_option
from app.compiler import Compiled, compile_paths
from app.errors import Exit, PolicyInvalid
from app.paths import CONFIG_DIRECTORY
from app.policy.source import Read, read_file

policies_argument = click.argument("policies", nargs=-1, required=True, metavar="POLICY...")


def compile_or_report(
    policies: Sequence[str], as_json: bool, read: Read = read_file, directory: str = CONFIG_DIRECTORY
) -> Compiled:
    """The compiled policies; with ``as_json`` problems are one JSON document too (exit 3 in any case)."""
    try:
        return compile_paths(policies, read, directory=directory)
    except PolicyInvalid as error:
        if not as_json:
            raise
        problems = [dataclasses.asdict(problem) for problem in error.problems]
        emit({"valid": False, "problems": problems}, "", as_json)
        raise click.exceptions.Exit(Exit.POLICY) from error


@click.command("validate")
@policies_argument
@json_option
def command(policies: tuple[str, ...], as_json: bool) -> None:
    """Check policies and say everything that is wrong, with file, line and key.

    A POLICY is a TOML file, or the bare name of a shipped policy (./NAME is a file). Policies of
    one VM belong together: give them all.
    """
    compiled = compile_or_report(policies, as_json)
    plan = compiled.plan
    names = [application.name for application in plan.applications]
    emit(
        {
            "valid": True,
            "applications": names,
            "requested": plan.requested.word,
            "plan_sha256": plan.digest(),
            "problems": [],
        },
        f"valid: {', '.join(names)}; level {plan.requested.word}; "
        f"pre {compiled.budget.pre}; post {compiled.budget.post}",
        as_json,
    )
