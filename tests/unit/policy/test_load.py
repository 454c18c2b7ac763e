from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from app.compiler import compile_paths
from app.errors import Exit, HostUnfit, PolicyInvalid
from app.policy import load_policies, shipped_names
from app.policy.source import LARGEST
from tests.unit.policy.write import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize("name", ["postgresql", "filesystem", "example-custom"])
def test_shipped_policies_are_usable_by_bare_name(name: str) -> None:
    assert load_policies([name])[0].lineage == (name,)


def test_a_bare_name_is_no_file(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write('version = 1\nname = "mine"\n', "filesystem")
    monkeypatch.chdir(folder.path)
    assert load_policies(["filesystem"])[0].name == "filesystem"
    assert load_policies(["./filesystem"])[0].name == "mine"


def test_extends_merges_tables_and_replaces_lists(folder: Folder) -> None:
    folder.write(
        """
        version = 1
        name = "base"
        extends = "postgresql"
        [settings]
        port = 6000
        user = "u"
        [session]
        begin = ["A;"]
        [session.environment]
        EXTRA = "1"
        """,
        "base.toml",
    )
    path = folder.write(
        """
        version = 1
        name = "orders"
        extends = "./base.toml"
        [settings]
        port = 7000
        """
    )
    policy = load_policies([path])[0]
    assert policy.lineage == ("orders", "base", "postgresql")
    assert policy.settings["port"] == 7000
    assert policy.settings["user"] == "u"
    session = compile_paths([path]).plan.applications[0].mechanisms["session"]
    assert session["begin"] == ["A;"]
    assert session["environment"]["EXTRA"] == "1"
    assert session["environment"]["PGPORT"] == "7000"


def test_what_was_proven_is_not_inherited_by_another_recipe(folder: Folder) -> None:
    head = 'version = 1\nname = "{}"\nextends = "example-custom"\n'
    same = folder.write(head.format("same"))
    step = '[[verify]]\nmechanism = "command"\nargv = ["/bin/true"]\n'
    other = folder.write(head.format("other") + step)
    said = folder.write(head.format("said") + 'proven = "real server"\n' + step)
    plan = compile_paths([same, other, said]).plan
    assert [(a.name, a.proven) for a in plan.applications] == [
        ("other", "untried"),
        ("said", "real server"),
        ("same", "stand-in"),
    ]


def test_circles_of_extends_are_written_out(folder: Folder) -> None:
    folder.write('version = 1\nname = "a"\nextends = "./b.toml"\n', "a.toml")
    folder.write('version = 1\nname = "b"\nextends = "sub/../a.toml"\n', "b.toml")
    problem = folder.problems()["extends"]
    assert "a.toml -> " in problem.message
    assert problem.line == 3


def test_long_chains_of_extends_end(folder: Folder) -> None:
    for number in range(20):
        folder.write(f'version = 1\nname = "n{number}"\nextends = "./p{number + 1}.toml"\n')
    folder.files = folder.files[:1]
    assert "more than 8" in folder.problems()["extends"].message


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("postgresq", "did you mean postgresql?"),
        ("/etc/x.toml", "a file beside this one"),
        ("../x", "a file beside this one"),
        ("Postgres", "shipped:"),
    ],
)
def test_extends_names_what_is_there(folder: Folder, target: str, words: str) -> None:
    folder.write(f'version = 1\nname = "a"\nextends = "{target}"\n')
    assert words in folder.problems()["extends"].hint


def test_a_file_that_is_not_there_is_an_error_of_the_line_that_extends_it(folder: Folder) -> None:
    path = folder.write('version = 1\nname = "a"\nextends = "./nope.toml"\n')
    problem = folder.problems()["extends"]
    assert (problem.file, problem.line) == (path, 3)
    assert f"{folder.path}/nope.toml cannot be read: No such file" in problem.message
    assert f"a relative path begins at {folder.path};" in problem.hint


def test_an_inherited_error_names_the_file_it_stands_in(folder: Folder) -> None:
    base = folder.write(
        'version = 1\nname = "base"\nextends = "sqlite"\n\n[timing]\nhold = -1\n', "base.toml"
    )
    folder.write('version = 1\nname = "a"\nextends = "base.toml"\n[settings]\ndatabases = ["/d"]\n')
    folder.files = folder.files[1:]
    problem = folder.problems()["timing.hold"]
    assert (problem.file, problem.line) == (base, 6)


CONTENTS = {
    "empty": (b"", "is missing"),
    "latin-1": (b'version = 1\nname = "\xe9"\n', "is not UTF-8"),
    "NUL": (b'version = 1\nname = "a\0"\n', "is not TOML"),
    "escaped NUL": (b'version = 1\nname = "a\\u0000"\n', "NUL character"),
    "huge": (b"#" * (LARGEST + 1), "is larger than"),
    "syntax": (b"version = 1\nname = \n", "is not TOML"),
    "twice": (b"version = 1\nversion = 1\n", "is not TOML"),
    "deep array": (b"x = " + b"[" * 5000 + b"]" * 5000, "nested too deeply"),
    "deep table": (b"[" + b".".join([b"a"] * 200) + b"]", "nested too deeply"),
    "deep inline": (b"x = " + b"{a=" * 300 + b"1" + b"}" * 300, "nested too deeply"),
    "long number": (b"x = " + b"9" * 5000, "number that is too long"),
    "large number": (b"version = 1\nx = 9223372036854775808", "too large a number"),
    "large hex": (b"x = 0x" + b"f" * 9000, "too large a number"),
    "surrogate": (b'x = "\\ud800"', "is not TOML"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_unreadable_content_is_one_clear_error(folder: Folder, kind: str) -> None:
    content, words = CONTENTS[kind]
    path = folder.path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(PolicyInvalid) as caught:
        compile_paths([str(path)])
    assert caught.value.status is Exit.POLICY
    assert words in str(caught.value)
    assert caught.value.problems[0].file == str(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"a = 1\n{'.'.join(['b'] * 25)} = 1\n", 2),
        (f"a = 1\n[ {' . '.join(['b'] * 25)} ]\n", 2),
        (f"[[{'.'.join(['b'] * 25)}]]\n", 1),
        (f"a = 1\n\nb = {{x = 1, {'.'.join(['c'] * 25)} = 2}}\n", 3),
        (f"""a = 1\n{".".join(['"b.]"', "'='", "b"] * 9)} = 2\n""", 2),
        (f"a = 1\nb = [\n {'[' * 30}{']' * 30}\n]\n", 3),
        (f"a = 1\nb = [\n {'[' * 5000}{']' * 5000}\n]\n", 3),
        (f"a = 1\n\nb = {'{a=' * 300}1{'}' * 300}\n", 3),
        (f"[{'.'.join(['a'] * 13)}]\nx = 1\n{'.'.join(['b'] * 13)} = 1\n", 3),
    ],
)
def test_nesting_too_deep_names_its_line(folder: Folder, text: str, line: int) -> None:
    folder.write(text)
    problem = folder.problems()[""]
    assert (problem.message, problem.line) == ("is nested too deeply", line)


@pytest.mark.parametrize(
    "text",
    [
        f"# {'.'.join(['a'] * 30)} = 1",
        f"summary = '{'.'.join(['a'] * 30)} ='",
        f'summary = "\\"{".".join(["a"] * 30)} = ="',
        f'summary = """\n{".".join(["a"] * 30)} = 1\n[{".".join(["a"] * 30)}]\\""\n"""',
        f"summary = '''\n{'.'.join(['a'] * 30)} = 1\n'''",
    ],
)
def test_dots_in_texts_are_no_long_key(folder: Folder, text: str) -> None:
    folder.custom("orders", text)
    assert not folder.problems()


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9_9" * 5000, "[\n1,\n" + "9" * 5000 + "]"])
def test_a_number_that_is_too_long_names_its_line(folder: Folder, number: str) -> None:
    folder.write(f"# {'9' * 6000}\na = '{'9' * 6000}'\nb = {number}\n")
    problem = folder.problems()[""]
    assert "number that is too long" in problem.message
    assert problem.line == 3 + number.count("\n")


def test_a_key_of_many_parts_costs_no_memory(folder: Folder) -> None:
    path = folder.write(".".join(["a"] * 8000) + " = 1\n")
    tracemalloc.start()
    try:
        with pytest.raises(PolicyInvalid):
            compile_paths([path])
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_a_byte_order_mark_is_no_error(folder: Folder) -> None:
    path = folder.path / "x.toml"
    path.write_bytes(b'\xef\xbb\xbfversion = 1\nname = "a"\nextends = "filesystem"\n')
    assert load_policies([str(path)])[0].name == "a"


def test_paths_that_are_no_files_are_clear_errors(folder: Folder) -> None:
    os.mkfifo(folder.path / "fifo")
    (folder.path / "loop").symlink_to("loop")
    paths = [
        str(folder.path),
        str(folder.path / "fifo"),
        str(folder.path / "loop"),
        "/dev/zero",
        "no\0pe",
        "nope/x",
    ]
    with pytest.raises(PolicyInvalid) as caught:
        compile_paths(paths)
    assert len(caught.value.problems) == len(paths)
    assert all(problem.message.startswith("cannot be read") for problem in caught.value.problems)


def test_reading_can_be_replaced_and_its_refusal_passes_through() -> None:
    content = b'version = 1\nname = "a"\nextends = "./b.toml"\n'
    files = {"/x/a.toml": content, "/x/b.toml": b'version = 1\nname = "b"\nextends = "filesystem"\n'}
    assert load_policies(["/x/a.toml"], read=files.__getitem__)[0].lineage == ("a", "b", "filesystem")

    def refuse(path: str) -> bytes:
        raise HostUnfit(f"{path}: writable by others")

    with pytest.raises(HostUnfit):
        load_policies(["/x/a.toml"], read=refuse)


def test_every_error_of_every_file_at_once(folder: Folder) -> None:
    folder.write(
        """
        version = 2
        name = "Bad Name"
        extends = "postgresql"
        reqired = true

        [settings]
        prot = 1
        port = "5432"
        mode = "bakup"
        host = "a\\nb"

        [timing]
        retries = 2.0
        hold = nan
        release = true

        [framework]
        poll_seconds = 2.0

        [freeze]
        skip = ["/a,b"]

        [snapshot]
        provider = "lvmm"
        """
    )
    folder.write('version = 1\nname = "two"\nextends = "sqlite"\n')
    problems = folder.problems()
    assert {key: problem.line for key, problem in problems.items()} == {
        "version": 1,
        "name": 2,
        "reqired": 4,
        "settings.prot": 7,
        "settings.port": 8,
        "settings.mode": 9,
        "settings.host": 10,
        "timing.retries": 13,
        "timing.hold": 14,
        "timing.release": 15,
        "framework.poll_seconds": 18,
        "freeze.skip[0]": 21,
        "snapshot.provider": 24,
        "settings": 1,
    }
    assert problems["reqired"].hint == "did you mean required?"
    assert "did you mean port?" in problems["settings.prot"].hint
    assert problems["timing.retries"].hint.startswith("write 2, without a decimal point")
    assert "databases" in problems["settings"].message


@pytest.mark.parametrize("value", ["2.0", '"2"', "true", "0", "6", "2.5", "inf", "1979-05-27", "[1]", "{}"])
def test_poll_seconds_is_strictly_an_integer_from_1_to_5(folder: Folder, value: str) -> None:
    folder.custom("a", f"[framework]\npoll_seconds = {value}")
    assert list(folder.problems()) == ["framework.poll_seconds"]


def test_shipped_names() -> None:
    assert {"example-custom", "filesystem", "postgresql", "sqlite"} <= set(shipped_names())


def test_a_lower_level_is_a_ceiling_for_whoever_extends(folder: Folder) -> None:
    folder.custom("base", 'level = "crash"')
    folder.files.clear()
    folder.write(
        'version = 1\nname = "child"\nextends = "./base.toml"\nlevel = "application"\n', "child.toml"
    )
    problem = folder.problems()["level"]
    assert "can give crash at most" in problem.message
    assert (problem.file, problem.line) == (str(folder.path / "child.toml"), 4)
    folder.files.clear()
    folder.write('version = 1\nname = "grandchild"\nextends = "./child.toml"\nlevel = "filesystem"\n')
    problems = folder.problems()
    assert "can give crash at most" in problems["level"].message


@pytest.mark.parametrize("level", ["crash", "filesystem", "application"])
def test_a_level_may_be_lowered_and_said_again(folder: Folder, level: str) -> None:
    folder.custom("base", 'level = "application"')
    folder.files.clear()
    folder.write(f'version = 1\nname = "child"\nextends = "./base.toml"\nlevel = "{level}"\n')
    assert folder.compile().plan.requested.word == level
