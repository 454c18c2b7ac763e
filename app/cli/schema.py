"""``app schema``: the JSON Schema of a policy, for editors and reviewers."""

from __future__ import annotations

import json

import click

from app.policy.schema import policy_schema


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of a policy (also published as policies/policy.schema.json)."""
    click.echo(json.dumps(policy_schema(), indent=2, ensure_ascii=False))
