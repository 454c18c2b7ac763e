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


@pytest.mark.parametrize("entry", ["/x ", "/x\u00a0", "/x\t", " /x", "/x,/y", "/x\ny", "/x;", "/x#", "/x%"])
def test_the_extensions_list_can_carry_every_mount_that_is_skipped(folder: Folder, entry: str) -> None:
    folder.custom("orders", f"[freeze]\nskip = ['/ok', {json.dumps(entry)}]")
    problem = folder.problems()["freeze.skip[1]"]
    assert "the extension's list in vmbackup.conf cannot carry those" in problem.hint


def test_mounts_with_blanks_inside_are_skipped(folder: Folder) -> None:
    folder.custom("orders", "[freeze]\nskip = ['/a b/c', '/ d', '/']")
    assert folder.compile().extension.mounts_to_skip == ("/", "/ d", "/a b/c")


def test_a_wrong_element_of_a_list_hides_no_other(folder: Folder) -> None:
    folder.custom(
        "orders",
        """
        [snapshot]
        manifest = [
          "a",
          "/b/../c",
        ]
        [freeze]
        mounts = ["m", "/n/", "/o"]
        skip = ["/p,", "/q//r", "/o"]
        """,
    )
    assert {key: problem.line for key, problem in folder.problems().items()} == {
        "snapshot.manifest[0]": 6,
        "snapshot.manifest[1]": 7,
        "freeze.mounts[0]": 10,
        "freeze.mounts[1]": 10,
        "freeze.mounts[2]": 10,
        "freeze.skip[0]": 11,
        "freeze.skip[1]": 11,
    }


@pytest.mark.parametrize("name", ["x" * 256, "\u00e9" * 128, "/".join(["x" * 255] * 17)])
@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("[freeze]\nskip = ['{}']", "freeze.skip[0]"),
        ("[freeze]\nmounts = ['{}']", "freeze.mounts[0]"),
        ("[snapshot]\nmanifest = ['{}']", "snapshot.manifest[0]"),
        ("[framework]\npre_location = '{}'", "framework.pre_location"),
        ("[settings]\nplace.type = 'path'\nplace.default = '{}'", "settings.place.default"),
    ],
)
def test_a_path_is_one_that_a_filesystem_can_have(folder: Folder, more: str, key: str, name: str) -> None:
    folder.custom("orders", more.replace("{}", f"/a/{name}"))
    problem = folder.problems()[key]
    assert "bytes at most" in problem.hint
    assert problem.line
