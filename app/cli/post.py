"""``app post`` for click: help, and a way in behind ``--debug``. The work is in ``app.cli.extension``."""

from __future__ import annotations

import sys

import click

from app.cli import extension


@click.command("post", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(words: tuple[str, ...]) -> None:
    """Called by the framework's post-script; see app post --help."""
    sys.exit(extension.main(["post", *words]))
