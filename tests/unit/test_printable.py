"""What an application says reaches terminals and logs as text, wherever it is said."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from app import control, masking
from app.cli import commands, extension, output
from app.errors import HostUnfit
from app.narrate import narrate
from app.paths import paths
from app.report import build
from app.text import printable, printable_lines
from tests.unit.plans import application, events, plan

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b2J\rok\u202e\u2028\udc9b"
ESCAPED = r"\x1b[2J\x1b]0;owned\x07\x9b2J\rok\u202e\u2028\udc9b"


@given(st.text(st.characters(exclude_characters="\\")))
def test_what_is_escaped_is_printable_and_can_be_read_back(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    for character in text:
        if not character.isprintable():
            assert printable(character) == character.encode("unicode_escape").decode()
    assert printable_lines(text).split("\n") == list(map(printable, text.split("\n")))


def hostile_everywhere(value: Any) -> Any:
    """The same data with a hostile end to each of its texts."""
    if isinstance(value, dict):
        return {key: hostile_everywhere(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile_everywhere(item) for item in value]
    return f"{value}\n{HOSTILE}" if isinstance(value, str) else value


def test_no_part_of_a_report_reaches_a_terminal_as_it_is() -> None:
    report = build(
        plan(application()), events("begin", "quiesced:db", "broken", "end", broken={"reason": "r"})
    )
    report["because"] = ["a reason"]
    report["applications"][0] |= {"sessions": {"db": "7"}, "saved": {"a": "b"}, "held": True, "variant": "v"}
    report["filesystems"] = [{"mount": "/v", "frozen": False, "reason": "r", "held_seconds": None}]
    report["snapshot"] |= {"reason": "r", "reference": "snap", "state": "s"}
    report["stuck"] = ["/v"]
    lines = narrate(copy.deepcopy(report)).split("\n")
    spoiled = narrate(hostile_everywhere(report)).split("\n")
    assert len(spoiled) == len(lines)
    assert all(line.isprintable() for line in spoiled)
    assert any("session 7" in line and ESCAPED in line for line in spoiled)


@pytest.mark.parametrize("cut", [masking.shorten, masking.shorten_to_end])
@pytest.mark.parametrize("length", [20, 300])
def test_what_is_shortened_is_printable(cut: Any, length: int) -> None:
    text = cut(HOSTILE * 200, length)
    assert text.isprintable()
    assert len(text) <= length
    assert cut("a\n\tb", length) == "a b"


@pytest.mark.parametrize(
    "error", [HostUnfit(HOSTILE, HOSTILE), OSError(5, HOSTILE, HOSTILE), KeyError(HOSTILE)]
)
def test_an_error_reaches_the_terminal_as_text(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(commands, "group", failing)
    monkeypatch.setattr(sys, "argv", ["app"])
    monkeypatch.setenv("STILLFRAME_DEBUG", "1")
    with pytest.raises(SystemExit):
        commands.main()
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert all(line.isprintable() for line in said.split("\n"))


@pytest.mark.parametrize("as_json", [False, True])
def test_an_answer_reaches_the_terminal_as_text(as_json: bool) -> None:
    data = {"said": HOSTILE + "\U000e0001"}

    @click.command()
    def answering() -> None:
        output.emit(data, f"two\nlines {HOSTILE}", as_json)

    said = CliRunner().invoke(answering).output
    assert all(line.isprintable() for line in said.split("\n"))
    if as_json:
        assert json.loads(said) == data
    else:
        assert said == f"two\nlines {ESCAPED}\n"


def test_what_pre_says_reaches_its_log_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    extension._say(f"error: {HOSTILE}\n  hint: {HOSTILE}")
    assert capsys.readouterr().err == f"error: {ESCAPED}\n  hint: {ESCAPED}\n"


@pytest.mark.parametrize("words", [f"a {HOSTILE}\nb", "x" * 9000, "\x1b" * 3000, "\u00e9" * 3000])
def test_the_holders_answer_is_one_printable_line(tmp_path: Path, words: str) -> None:
    places = paths({"STILLFRAME_PREFIX": str(tmp_path)})
    os.makedirs(places.run)
    server = control.Server(places)
    reader = os.open(places.answer, os.O_RDONLY | os.O_NONBLOCK)
    try:
        server.answer(1, words)
        answer = os.read(reader, 1 << 16)
    finally:
        os.close(reader)
        server.close()
    assert answer.startswith(b"1 ")
    assert answer.endswith(b"\n")
    assert answer.count(b"\n") == 1
    assert len(answer) <= 4096
    assert answer[:-1].decode(errors="ignore").isprintable()
