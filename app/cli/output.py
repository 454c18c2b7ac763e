"""How commands speak: text for people, or one JSON document for programs."""

from __future__ import annotations

from typing import Any

import click

from app.text import printable_lines

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def emit(data: Any, text: str, as_json: bool) -> None:
    """Print ``data`` as JSON, or ``text``."""
    if as_json:
        from app.document import dump  # json is not there for nothing: app --help starts without it

        click.echo(_escaped(dump(data)), nl=False)
    elif text:
        say(text)


def say(text: str) -> None:
    """Print text for people: whatever is in it, a terminal shows it and obeys none of it."""
    click.echo(printable_lines(text))


def tell(text: str) -> None:
    """The same on stderr: progress, warnings, errors."""
    click.echo(printable_lines(text), err=True)


def _escaped(document: str) -> str:
    """The same JSON, without what a terminal would act on: outside of its strings there is none of that."""
    import json

    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in document)
