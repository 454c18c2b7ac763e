"""Completion in bash, zsh and fish: click's own, with the names of files where it knows nothing.

The scripts are static text; they ask the binary, which answers without importing any command but
the one whose words are completed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

if TYPE_CHECKING:
    # Answering a shell needs none of it.
    from app.deployment import Completions

VARIABLE = "_APP_COMPLETE"
"""By which the scripts ask: click makes it of the name that app.cli gives it."""


class _Offers(ShellComplete):
    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Commands by name alone; then click's answer; then files, as a shell does by itself."""
        from app.cli.commands import COMMANDS

        option = incomplete.startswith("-")
        if not option and all(word.startswith("-") for word in args):
            return [CompletionItem(n, help=h) for n, h in COMMANDS.items() if n.startswith(incomplete)]
        found: list[CompletionItem[str]] = super().get_completions(args, incomplete)
        if found or (option and "=" not in incomplete):
            return found
        return [CompletionItem(incomplete.rpartition("=")[2], type="file")]


class _Bash(_Offers, BashComplete):
    def source(self) -> str:
        """The script of click, which older shells load too, without starting bash to ask for its version."""
        text = ShellComplete.source(self)
        setup = f"complete -o nosort -F {self.func_name} {self.prog_name}"
        # nosort came with bash 4.4.
        older = setup.replace("-o nosort ", "")
        return text.replace(setup, f"{setup} 2>/dev/null || {older}")


class _Zsh(_Offers, ZshComplete):
    pass


class _Fish(_Offers, FishComplete):
    pass


def register() -> None:
    """Let click answer by the classes of this module."""
    for kind in (_Bash, _Zsh, _Fish):
        add_completion_class(kind)


def completions(group: click.Command, name: str) -> Completions:
    """The scripts for a binary that is called ``name``."""
    from app.deployment import Completions

    arguments: tuple[click.Command, dict[str, Any], str, str] = (group, {}, name, VARIABLE)
    return Completions(
        bash=_Bash(*arguments).source(), zsh=_Zsh(*arguments).source(), fish=_Fish(*arguments).source()
    )
