"""How commands speak: text for people, or one JSON document for programs."""

from __future__ import annotations

from typing import Any

import click

from app.document import dump

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def emit(data: Any, text: str, as_json: bool) -> None:
    """Print ``data`` as JSON, or ``text``."""
    if as_json:
        click.echo(dump(data), nl=False)
    elif text:
        click.echo(text)
