from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.policy.write import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def declare(folder: Folder, declaration: str, value: str = "", use: str = '"{x}"') -> Folder:
    folder.write(
        f"""
        version = 1
        name = "base"
        [settings.x]
        {declaration}
        [[quiesce]]
        mechanism = "command"
        argv = ["/bin/pause", {use}]
        [[release]]
        mechanism = "command"
        argv = ["/bin/resume"]
        proof = true
        [[recover]]
        mechanism = "command"
        argv = ["/bin/resume"]
        """.replace("\n        ", "\n"),
        "base.toml",
    )
    child = 'version = 1\nname = "child"\nextends = "base.toml"\n'
    folder.write(child + (f"[settings]\nx = {value}\n" if value else ""))
    folder.files = folder.files[1:]
    return folder


GOOD = [
    ('type = "string"', '"a $(b) \\"c\\" é"', ["/bin/pause", 'a $(b) "c" é']),
    ('type = "string"\nchoices = ["a", "b"]', '"b"', ["/bin/pause", "b"]),
    ('type = "integer"\nminimum = 1\nmaximum = 5', "5", ["/bin/pause", "5"]),
    ('type = "boolean"', "true", ["/bin/pause", "true"]),
    ('type = "path"', '"/a b"', ["/bin/pause", "/a b"]),
    ('type = "string"\ndefault = "d"', "", ["/bin/pause", "d"]),
    ('type = "string"\npattern = "[a-z]+"', '"abc"', ["/bin/pause", "abc"]),
    ('type = "path"\nsecret = true', '"/etc/secret"', ["/bin/pause", "/etc/secret"]),
]


@pytest.mark.parametrize(("declaration", "value", "argv"), GOOD)
def test_good_values(folder: Folder, declaration: str, value: str, argv: list[str]) -> None:
    application = declare(folder, declaration, value).compile().plan.applications[0]
    assert application.variants[0].quiesce[0].do["argv"] == argv


@pytest.mark.parametrize("kind", ["strings", "paths"])
def test_a_list_expands_where_it_stands_alone(folder: Folder, kind: str) -> None:
    declare(folder, f'type = "{kind}"', '["/a", "/b c"]', use='"{x}", "end"')
    argv = ["/bin/pause", "/a", "/b c", "end"]
    assert folder.compile().plan.applications[0].variants[0].quiesce[0].do["argv"] == argv


BAD = [
    ('type = "string"', "1", "is not a string"),
    ('type = "string"', "", "has no value"),
    ('type = "string"', '"a\\nb"', "control character"),
    ('type = "string"', '"a\\u0085b"', "control character"),
    ('type = "string"', '"a\\u2028b"', "control character"),
    ('type = "string"\nchoices = ["a"]', '"b"', "none of the choices"),
    ('type = "string"\npattern = "[a-z]+"', '"abc1"', "does not match"),
    ('type = "integer"', "1.0", "is 1.0"),
    ('type = "integer"', "true", "is not an integer"),
    ('type = "integer"\nminimum = 1\nmaximum = 5', "6", "out of range"),
    ('type = "boolean"', '"true"', "is not true or false"),
    ('type = "boolean"', "1", "is not true or false"),
    ('type = "path"', '"a/b"', "not a full, normal path"),
    ('type = "path"', '"/a/../b"', "not a full, normal path"),
    ('type = "path"', '"//a"', "not a full, normal path"),
    ('type = "path"', '["/a"]', "is not a full path"),
    ('type = "paths"', '"/a"', "is not a list"),
    ('type = "paths"', '["/a", "b"]', "not a full, normal path"),
    ('type = "strings"', '["a", 1]', "is 1, not a string"),
    ('type = "string"', "1979-05-27", "is 1979-05-27"),
]


@pytest.mark.parametrize(("declaration", "value", "words"), BAD)
def test_bad_values(folder: Folder, declaration: str, value: str, words: str) -> None:
    use = '"/y"' if "paths" in declaration or "strings" in declaration else '"{x}"'
    problems = declare(folder, declaration, value, use=use).problems()
    assert any(words in problem.message for problem in problems.values()), problems


DECLARATIONS = [
    ('type = "string"\nsecret = true', "must be of type path"),
    ('type = "number"', "is not allowed"),
    ('default = "x"', "without a type"),
    ('type = "integer"\ndefault = "x"', "is not an integer"),
    ('type = "string"\nminimum = 1\ndefault = "x"', "has no meaning"),
    ('type = "string"\npattern = "("\ndefault = "x"', "is no regular expression"),
    ('type = "string"\ndefalt = "x"', "unknown key"),
]


@pytest.mark.parametrize(("declaration", "words"), DECLARATIONS)
def test_bad_declarations(folder: Folder, declaration: str, words: str) -> None:
    problems = declare(folder, declaration).problems()
    assert any(words in problem.message for problem in problems.values()), problems


def test_names_of_the_run_are_taken(folder: Folder) -> None:
    folder.custom("a", '[settings.scratch]\ntype = "string"\ndefault = "x"')
    assert "placeholder of the run" in folder.problems()["settings.scratch"].message


def test_an_unknown_setting_lists_the_declared_ones(folder: Folder) -> None:
    folder.write('version = 1\nname = "a"\nextends = "sqlite"\n[settings]\ndatabases = ["/d"]\nfoo = 1\n')
    assert folder.problems()["settings.foo"].hint == "declared: databases (paths)"


def test_the_content_of_a_secret_never_enters_the_plan(folder: Folder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    declare(folder, 'type = "path"\nsecret = true', f'"{secret}"')
    text = folder.compile().plan.to_json()
    assert str(secret) in text
    assert "hunter2" not in text
