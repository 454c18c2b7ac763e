"""Man pages say what --help says, letter by letter; completions offer what click knows, and files."""

from __future__ import annotations

import re
import sys

import click
import pytest
from click.shell_completion import CompletionItem

from app.cli import completion, extension, manual
from app.cli.commands import COMMANDS, group
from app.errors import Exit
from app.paths import BINARY

SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "FILES", "ENVIRONMENT", "SEE ALSO"]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return manual.pages(group, COMMANDS, BINARY)


def plain(text: str) -> str:
    """What roff would print, as far as this writer uses it."""
    text = re.sub(r"\\f[BIP]|\\&", "", text)
    for letter, written in [("-", r"\-"), ("'", r"\(aq"), ("`", r"\(ga"), ('"', r"\(dq"), (" ", "\\ ")]:
        text = text.replace(written, letter)
    return text.replace(r"\(ha", "^").replace(r"\(ti", "~").replace(r"\e", "\\")


def test_every_command_has_a_page_with_every_section(pages: dict[str, str]) -> None:
    assert set(pages) == {"app.1", *(f"app-{name}.1" for name in COMMANDS)}
    for name, page in pages.items():
        found = re.findall(r"^\.SH (.*)$", page, re.MULTILINE)
        assert [title for title in found if title != "COMMANDS"] == SECTIONS, name
        assert "STILLFRAME_PREFIX" in page


def test_every_option_is_on_its_page(pages: dict[str, str]) -> None:
    context = click.Context(group)
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        page = plain(pages[f"app-{name}.1"])
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert max(parameter.opts, key=len) in page
                assert " ".join((parameter.help or "").split()) in page
        if command.params and command.help and name not in ("pre", "post"):
            assert " ".join(command.help.split("\n\n")[0].split()) in page


@pytest.mark.parametrize("name", ["pre", "post"])
def test_commands_without_click_are_described_by_their_own_help(
    pages: dict[str, str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    extension.main([name, "--help"])
    said = capsys.readouterr().out
    page = plain(pages[f"app-{name}.1"])
    options = re.findall(r"^  (--\w+)", said, re.MULTILINE)
    assert options
    for option in options:
        assert f"\n{option} " in page
    assert f"app {name} [--config DIR]" in page


def test_every_exit_status_is_told(pages: dict[str, str]) -> None:
    assert set(manual.EXITS) == set(Exit)


def test_pages_are_the_same_at_any_time_and_for_anybody(
    pages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in [("LANG", "de_DE.UTF-8"), ("COLUMNS", "40"), ("TZ", "Asia/Tokyo"), ("HOME", "/x")]:
        monkeypatch.setenv(variable, value)
    assert manual.pages(group, COMMANDS, BINARY) == pages
    for page in pages.values():
        assert page.isascii()
        assert not re.search(r"\b20\d\d\b", page)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", "plain"),
        ("a-b --all", r"a\-b \-\-all"),
        (".start", r"\&.start"),
        ("'quote", r"\(aqquote"),
        ("back\\slash", r"back\eslash"),
        ('~^`"', r"\(ti\(ha\(ga\(dq"),
        ("\u00fcml\u4e2d", r"\[u00FC]ml\[u4E2D]"),
    ],
)
def test_roff_prints_every_letter(text: str, written: str) -> None:
    assert manual.escape(text) == written


def test_a_verbatim_paragraph_stays_line_by_line() -> None:
    @click.command()
    def command() -> None:
        """Say.

        \b
        one
        .two

        three
        four
        """

    own = click.Group("g", commands={"x": command})
    page = manual.pages(own, {"x": "Say."}, BINARY)["app-x.1"]
    assert ".PP\n.nf\none\n\\&.two\n.fi\n.PP\nthree four\n" in page


# --- completion --------------------------------------------------------------------------------------


def offers(args: list[str], incomplete: str) -> list[CompletionItem[str]]:
    return completion._Bash(group, {}, "app", completion.VARIABLE).get_completions(args, incomplete)


def test_command_names_come_without_importing_any_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a command was imported")

    monkeypatch.setattr(type(group), "get_command", refuse)
    assert [item.value for item in offers([], "")] == list(COMMANDS)
    assert [item.value for item in offers(["--debug"], "un")] == ["uninstall"]
    assert [item.value for item in offers([], "--d")] == ["--debug"]


def test_options_are_offered_by_the_command() -> None:
    assert [item.value for item in offers(["compile"], "--ro")] == ["--root"]
    assert offers(["compile"], "--nonsense") == []


@pytest.mark.parametrize(
    ("args", "incomplete", "value"),
    [
        (["compile"], "ord", "ord"),
        (["compile", "a.toml"], "", ""),
        (["verify", "--root"], "/mnt", "/mnt"),
        (["verify"], "--root=/mnt", "/mnt"),
    ],
)
def test_files_are_offered_where_click_knows_nothing(args: list[str], incomplete: str, value: str) -> None:
    assert [(item.type, item.value) for item in offers(args, incomplete)] == [("file", value)]


def test_scripts_ask_by_the_name_that_click_listens_to() -> None:
    scripts = completion.completions(group, "vm-app")
    for script in (scripts.bash, scripts.zsh, scripts.fish):
        assert "_APP_COMPLETE=" in script
        assert "vm-app" in script
    assert scripts.zsh.startswith("#compdef vm-app\n")
    # bash before 4.4 has no nosort.
    assert "|| complete -F _vm_app_completion vm-app\n" in scripts.bash


def test_click_answers_by_our_classes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    completion.register()
    for variable, value in [
        ("_APP_COMPLETE", "bash_complete"),
        ("COMP_WORDS", "app unin"),
        ("COMP_CWORD", "1"),
    ]:
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", ["app"])
    with pytest.raises(SystemExit) as ended:
        group.main(prog_name="app")
    assert ended.value.code == 0
    assert capsys.readouterr().out == "plain,uninstall\n"
