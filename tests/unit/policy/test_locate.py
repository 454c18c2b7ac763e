from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from app.policy.locate import Key, Node, locate

DOCUMENT = '''# a comment = 1
name = "x"   # [not.a.table]

a.b . "c d" = 1
'q"x' = 2
"esc\\u0041pe" = 3
multi = """
[no.table]
k = 1 "quoted" ""  \\""""
after_multi = 1
literal = \'\'\'
it's = [ {
\'\'\'\'
list = [
  1, # one ]
  "two ]",
  { in = 1, line = [ 2 ] },
]
[table]
k = 1
[table.sub]
k = 2
[[many]]
k = 3
[[many.inner]]
k = 4
[[many.inner]]
k = 5
[[many]]
k = 6
[many.one]
k = 7
[["quo.ted"]]
k = 1979-05-27T07:32:00Z
'''

LINES: dict[tuple[Key, ...], int] = {
    ("name",): 2,
    ("a", "b", "c d"): 4,
    ('q"x',): 5,
    ("escApe",): 6,
    ("multi",): 7,
    ("after_multi",): 10,
    ("literal",): 11,
    ("list",): 14,
    ("list", 0): 15,
    ("list", 1): 16,
    ("list", 2, "line", 0): 17,
    ("table",): 19,
    ("table", "k"): 20,
    ("table", "sub"): 21,
    ("table", "sub", "k"): 22,
    ("many", 0): 23,
    ("many", 0, "inner", 0, "k"): 26,
    ("many", 0, "inner", 1, "k"): 28,
    ("many", 1): 29,
    ("many", 1, "k"): 30,
    ("many", 1, "one", "k"): 32,
    ("quo.ted", 0, "k"): 34,
}


def paths(value: Any, prefix: tuple[Key, ...] = ()) -> list[tuple[Key, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    out = [prefix] if prefix else []
    for key, item in items:
        out += paths(item, (*prefix, key))
    return out


def placed(node: Node, prefix: tuple[Key, ...] = ()) -> list[tuple[Key, ...]]:
    out = [prefix] if prefix else []
    for key, child in node.children.items():
        out += placed(child, (*prefix, key))
    return out


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_kind_of_key_has_its_line(newline: str) -> None:
    text = DOCUMENT.replace("\n", newline)
    root = locate(text, "f")
    assert {path: root.find(path).line for path in LINES} == LINES
    assert sorted(map(str, placed(root))) == sorted(map(str, paths(tomllib.loads(text))))


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).resolve().parents[3] / "policies").glob("*.toml")), ids=lambda p: p.stem
)
def test_shipped_policies_are_placed_whole(file: Path) -> None:
    text = file.read_text()
    assert sorted(map(str, placed(locate(text, "f")))) == sorted(map(str, paths(tomllib.loads(text))))


def test_an_unknown_path_gives_the_nearest_table() -> None:
    assert locate(DOCUMENT, "f").find(("table", "nothing", "here")).line == 19


_KEYS = st.text(st.sampled_from("ab-_.\"'# é\\="), min_size=1, max_size=4)
_SCALARS = st.one_of(
    st.integers(-9, 9),
    st.booleans(),
    st.text(st.sampled_from("a\"'\n\\#[]{},= é"), max_size=8),
    st.floats(0, 1),
)
_VALUES = st.recursive(
    _SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(_KEYS, v, max_size=3), max_leaves=8
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=5), st.booleans())
def test_whatever_a_writer_writes_is_placed_whole(data: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(data, multiline_strings=multiline)
    found = locate(text, "f")
    assert sorted(map(str, placed(found))) == sorted(map(str, paths(tomllib.loads(text))))


@given(st.text(max_size=60))
def test_what_is_no_toml_never_fails(text: str) -> None:
    locate(text, "f")
