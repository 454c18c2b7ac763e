from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.template import PATTERN, STATEMENT, TemplateError, alone, fill, fill_all, mentioned, substitute


def test_replaces_names_and_halves_doubled_braces() -> None:
    assert substitute("{a}-{{b}}-{n}-{yes}", {"a": "x", "n": 5, "yes": True}) == "x-{b}-5-true"


@pytest.mark.parametrize(
    "text", ["{", "}", "{A}", "{a-b}", "{a", "a}", "{}", "{3}", "{a!r}", "{a.b}", "{a[0]}"]
)
def test_refuses_what_is_no_placeholder(text: str) -> None:
    with pytest.raises(TemplateError, match="lone"):
        substitute(text, {"a": "x"})


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(TemplateError) as caught:
        substitute("{b}", {"a": "x"}, {"run"})
    assert caught.value.hint == "known here: a, run"


def test_filters_quote() -> None:
    values = {"name": 'O\'Hara "x" {y}', "pattern": "a.b{2}"}
    assert substitute("{name:sql}", values) == "'O''Hara \"x\" {y}'"
    assert substitute("{name:ident}", values) == '"O\'Hara ""x"" {y}"'
    assert substitute("{pattern:regex}", values) == r"a\.b\{2\}"


@pytest.mark.parametrize("bad", ["", "a b", "a'b", 'a"b', "a;b", "a\nb", "ä", "a{b}"])
def test_a_word_is_plain_or_refused(bad: str) -> None:
    assert substitute("SET {a:word}", {"a": "db-1.x:/y@z%+,"}) == "SET db-1.x:/y@z%+,"
    with pytest.raises(TemplateError, match="not one plain word"):
        substitute("{a:word}", {"a": bad})


def test_quoted_leaves_nothing_to_read_otherwise() -> None:
    assert substitute("{a:quoted}", {"a": 'aB1 "\\\nä'}) == '"aB1\\x20\\x22\\x5c\\x0a\\xc3\\xa4"'


def test_a_line_of_a_password_file_of_postgresql_s() -> None:
    assert substitute("*:*:*:*:{a:pgpass}", {"a": 'a:b\\c "d" {e}'}) == '*:*:*:*:a\\:b\\\\c "d" {e}'


def test_filters_of_http() -> None:
    values = {"a": 'x "y"\n{z} ä/?&'}
    assert substitute('{{"label": {a:json}}}', values) == '{"label": "x \\"y\\"\\n{z} ä/?&"}'
    assert substitute("/_label/{a:url}", values) == "/_label/x%20%22y%22%0A%7Bz%7D%20%C3%A4%2F%3F%26"


def test_mentioned_names() -> None:
    assert mentioned({"argv": ["{a}", "{{b}}", "x{c:sql}"], "n": 1, "t": {"k": "{d}"}}) == {"a", "c", "d"}


@pytest.mark.parametrize("bad", ["a\\b", "a\nb", "a\0b"])
@pytest.mark.parametrize("name", ["sql", "ident"])
def test_filters_refuse_what_servers_read_differently(bad: str, name: str) -> None:
    with pytest.raises(TemplateError, match="cannot be quoted safely"):
        substitute(f"{{a:{name}}}", {"a": bad})


def test_an_unknown_filter_is_an_error() -> None:
    with pytest.raises(TemplateError, match="no such filter"):
        substitute("{a:yaml}", {"a": "x"})


def test_where_quoting_is_required_only_integers_stand_plain() -> None:
    assert substitute("{n} {a:sql}", {"n": 1, "a": "x"}, require=STATEMENT) == "1 'x'"
    for text in ("{a}", "{flag}", "{a:regex}"):
        with pytest.raises(TemplateError, match="unquoted"):
            substitute(text, {"a": "x", "flag": True}, require=STATEMENT)
    with pytest.raises(TemplateError, match="unquoted"):
        substitute("{run}", {}, {"run"}, staged=True, require=STATEMENT)
    assert (
        substitute("{mark} {a:regex}", {"a": "."}, {"mark"}, require=PATTERN, exempt={"mark"}) == r"{mark} \."
    )


def test_a_list_stands_alone() -> None:
    assert alone("{a}") == "a"
    assert alone("{a} ") is alone("{a:sql}") is alone("{{a}}") is None
    with pytest.raises(TemplateError, match="must stand alone"):
        substitute("x{a}", {"a": ("1", "2")})
    assert fill_all({"k": ["{a}", "b", ["{a}"]], "w": "{a}"}, {"a": ("1", "2")}) == {
        "k": ["1", "2", "b", ["1", "2"]],
        "w": ["1", "2"],
    }


def test_a_value_cannot_become_a_placeholder_of_the_final_text() -> None:
    assert substitute("{mark} {a}", {"a": "{other}"}, {"mark"}) == "{mark} {other}"
    for text, value in (("{mark} {a}", "{mark}"), ("{mark} {{mark}}", ""), ("{{{a}}}", "mark")):
        with pytest.raises(TemplateError, match="would hold a placeholder"):
            substitute(text, {"a": value}, {"mark"})


_TEXT = st.text(st.sampled_from("ab{}'\"\\$ \n"), max_size=12)


@given(value=_TEXT, run=_TEXT)
def test_two_stages_give_what_one_would(value: str, run: str) -> None:
    staged = substitute("<{a}|{run}|{{x}}>", {"a": value}, {"run"}, staged=True)
    assert fill(staged, {"run": run}) == f"<{value}|{run}|{{x}}>"


@given(text=_TEXT)
def test_any_text_gives_text_or_one_error(text: str) -> None:
    with contextlib.suppress(TemplateError):
        assert isinstance(substitute(text, {"a": "1", "b": "2"}), str)
