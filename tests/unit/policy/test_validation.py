from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.policy.schema import policy_schema
from tests.unit.policy.write import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize("tail", ["\n", "\r\n", "\x7f", "\x9b2J", "\u2028"])
@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("[freeze]\nskip = [{}]", "freeze.skip[0]"),
        ("[freeze]\nmounts = [{}]", "freeze.mounts[0]"),
        ("[snapshot]\nmanifest = {}", "snapshot.manifest"),
        ("[framework]\npre_location = {}", "framework.pre_location"),
        ("[framework]\npost_location = {}", "framework.post_location"),
        ("[framework]\npre_params = [{}]", "framework.pre_params[0]"),
        ("[framework]\npost_params = [{}]", "framework.post_params[0]"),
        ("[framework]\napp_name = {}", "framework.app_name"),
        ("after = [{}]", "after[0]"),
    ],
)
def test_no_value_ends_with_a_line_break_or_a_control_character(
    folder: Folder, more: str, key: str, tail: str
) -> None:
    value = "a" if key == "after[0]" else "/a"
    folder.custom("orders", more.format(json.dumps(value + tail).replace("\x7f", "\\u007f")))
    assert key in folder.problems()


def test_no_name_ends_with_a_line_break(folder: Folder) -> None:
    folder.custom("orders\\n")
    assert "name" in folder.problems()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[prove.facts]\n"a\\n" = ["f", "x"]', 'prove.facts."a\\n"'),
        ('[secrets]\n"a\\n".file = "/a"', 'secrets."a\\n"'),
        ('[http]\nurl = "http://a"\n[http.headers]\n"x\\n" = "1"', 'http.headers."x\\n"'),
    ],
)
def test_no_name_of_a_key_ends_with_a_line_break(folder: Folder, text: str, key: str) -> None:
    folder.custom("orders", text)
    assert key in folder.problems()


def nodes(value: Any) -> list[dict[str, Any]]:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if isinstance(value, dict) else []), *(node for item in below for node in nodes(item))]


def test_every_pattern_is_judged_by_the_check_that_knows_where_a_text_ends() -> None:
    """Other keywords of a schema would search with Python's own ``$``."""
    assert not [node for node in nodes(policy_schema()) if "patternProperties" in node]
