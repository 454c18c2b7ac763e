from __future__ import annotations

from pathlib import Path

import pytest

from app.compiler import compile_paths
from app.plan import Level, Plan
from app.template import fill
from tests.unit.policy.write import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_the_four_shipped_policies_make_one_plan(folder: Folder) -> None:
    path = folder.write('version = 1\nname = "db"\nextends = "sqlite"\n[settings]\ndatabases = ["/d"]\n')
    plan = compile_paths(["postgresql", "filesystem", "example-custom", path]).plan
    assert [a.name for a in plan.applications] == ["db", "example-custom", "filesystem", "postgresql"]
    assert plan.requested is Level.APPLICATION
    assert Plan.from_json(plan.to_json()) == Plan.from_json(Plan.from_json(plan.to_json()).to_json())
    assert Plan.from_json(plan.to_json()).digest() == plan.digest()


def test_the_order_of_the_arguments_does_not_matter(folder: Folder) -> None:
    a, b = folder.custom("a"), folder.custom("b", "[freeze]\nskip = ['/x']")
    assert compile_paths([a, b]).plan == compile_paths([b, a]).plan


def test_settings_choose_the_recipe(folder: Folder) -> None:
    assert len(compile_paths(["postgresql"]).plan.applications[0].variants) == 2
    folder.write('version = 1\nname = "c"\nextends = "postgresql"\n[settings]\nmode = "checkpoint"\n')
    variants = folder.compile().plan.applications[0].variants
    assert [(v.name, v.versions) for v in variants] == [("checkpoint", ((">=", 110000),))]


def test_no_recipe_for_the_settings_is_an_error(folder: Folder) -> None:
    folder.write(
        """
        version = 1
        name = "c"
        extends = "postgresql"
        [[choose]]
        name = "none"
        settings = { mode = "checkpoint", nope = 1 }
        quiesce = []
        """
    )
    problems = folder.problems()
    assert "none of the recipes" in problems["choose"].message
    assert "no declared setting" in problems["choose[0].settings.nope"].message


@pytest.mark.parametrize(("mode", "level"), [("stop", "application"), ("watch", "filesystem")])
def test_a_recipe_may_give_less_than_its_policy(folder: Folder, mode: str, level: str) -> None:
    folder.write(
        """
        version = 1
        name = "c"
        level = "application"
        [settings.mode]
        type = "string"
        default = "MODE"
        [[choose]]
        name = "stopped"
        settings = { mode = "stop" }
        quiesce = [{ mechanism = "command", argv = ["/bin/ctl", "stop"] }]
        release = [{ mechanism = "command", argv = ["/bin/ctl", "start"], proof = true }]
        [[choose]]
        name = "watched"
        level = "filesystem"
        settings = { mode = "watch" }
        quiesce = [{ mechanism = "command", argv = ["/bin/ctl", "show"] }]
        release = [{ mechanism = "command", argv = ["/bin/ctl", "show"] }]
        [[recover]]
        mechanism = "command"
        argv = ["/bin/ctl", "start"]
        settings = { mode = "stop" }
        """.replace("MODE", mode)
    )
    application = folder.compile().plan.applications[0]
    assert application.level.word == level
    assert len(application.recover) == (mode == "stop"), "what is quiesced in no setting needs no recover"


def test_steps_of_top_level_and_choose_do_not_mix(folder: Folder) -> None:
    steps = (
        '[[quiesce]]\nmechanism = "session"\nsend = "X;"\n'
        '[[release]]\nmechanism = "session"\nsend = "Y;"\nproof = true\n'
    )
    folder.write('version = 1\nname = "c"\nextends = "postgresql"\n' + steps)
    assert folder.problems().keys() == {"quiesce", "release"}
    folder.files.clear()
    folder.write('version = 1\nname = "c"\nextends = "postgresql"\nchoose = []\n' + steps)
    assert [v.name for v in folder.compile().plan.applications[0].variants] == ["default"]


def session(folder: Folder, send: str, settings: str = "") -> Folder:
    folder.write(
        f"""
        version = 1
        name = "c"
        extends = "postgresql"
        choose = []
        [settings]
        database = "O'Hara; DROP"
        {settings}
        [[quiesce]]
        mechanism = "session"
        send = "{send}"
        [[release]]
        mechanism = "session"
        send = "R;"
        proof = true
        """
    )
    return folder


def test_statements_quote_their_settings(folder: Folder) -> None:
    plan = session(folder, "S {database:sql} {port} {{x}};").compile().plan
    assert plan.applications[0].variants[0].quiesce[0].do["send"] == "S 'O''Hara; DROP' 5432 {x};"


@pytest.mark.parametrize(
    ("send", "words"),
    [
        ("S {database};", "unquoted"),
        ("S '{database}';", "unquoted"),
        ("S {database:regex};", "unquoted"),
        ("S {mark};", "no setting"),
        ("S {data};", "no setting"),
        ("S {;", "lone"),
    ],
)
def test_unquoted_statements_are_errors(folder: Folder, send: str, words: str) -> None:
    problem = session(folder, send).problems()["quiesce[0].send"]
    assert words in problem.message
    assert problem.hint


def test_expectations_escape_their_settings(folder: Folder) -> None:
    folder.custom("a", '[settings.x]\ntype = "string"\ndefault = "a.b"')
    path = Path(folder.files[0])
    text = path.read_text()
    path.write_text(
        text.replace('argv = ["/bin/pause"]', "argv = [\"/bin/pause\"]\nexpect = '^{x:regex}{{2}}$'")
    )
    assert folder.compile().plan.applications[0].variants[0].quiesce[0].expect == r"^a\.b{2}$"
    path.write_text(text.replace('argv = ["/bin/pause"]', "argv = [\"/bin/pause\"]\nexpect = '^{x}$'"))
    assert "unquoted" in folder.problems()["quiesce[0].expect"].message


STEPS = [
    ("expect = '(a'", "expect", "no regular expression"),
    ("expect = '{{99999999999}}'", "expect", ""),
    ("expect = '(a)(b)'\nsave = ['x', 'y', 'z']", "save", "3 names for 2 groups"),
    ("save = ['x', 'y']", "save", "no expect"),
    ("save = 'X'", "save", "not allowed"),
    ("save = ['x', 'x']", "save", "twice"),
    ("unchanged = 'x'", "unchanged", "saved by no earlier step"),
    ("agrv = ['x']", "agrv", "unknown key"),
    ("exit = [0, 256]", "exit[1]", "over 255"),
    ("exit = ['0']", "exit[0]", "not an integer"),
    ("stdin = 1", "stdin", "is 1, not a string"),
    ("proof = 'yes'", "proof", "not true or false"),
]


@pytest.mark.parametrize(("more", "key", "words"), STEPS)
def test_wrong_steps(folder: Folder, more: str, key: str, words: str) -> None:
    path = Path(folder.custom("a"))
    path.write_text(path.read_text().replace('argv = ["/bin/pause"]', f'argv = ["/bin/pause"]\n{more}'))
    problems = folder.problems()
    if words:
        assert words in problems[f"quiesce[0].{key}"].message


def test_a_command_needs_a_way_to_recover(folder: Folder) -> None:
    path = Path(folder.custom("a"))
    path.write_text(path.read_text().split("[[recover]]", maxsplit=1)[0])
    assert "outlives" in folder.problems()["recover"].message


def test_what_is_quiesced_is_released_and_proven(folder: Folder) -> None:
    path = Path(folder.custom("a"))
    text = path.read_text()
    path.write_text(text.replace("proof = true\n", ""))
    assert "proves the hold" in folder.problems()["release"].message
    path.write_text(text.replace("proof = true\n", "").replace('name = "a"', 'name = "a"\nlevel = "crash"'))
    assert folder.compile().plan.applications[0].level is Level.CRASH
    path.write_text(text.replace("[[release]]", "[[verify]]"))
    assert "must be released" in folder.problems()["release"].message


def test_a_missing_mechanism_table_is_named(folder: Folder) -> None:
    folder.write(
        """
        version = 1
        name = "a"
        [[quiesce]]
        mechanism = "session"
        send = "X"
        [[release]]
        mechanism = "session"
        send = "Y"
        proof = true
        """
    )
    assert {"session.argv", "session.mark", "session.failed"} <= folder.problems().keys()


def test_braces_of_settings_never_become_placeholders_of_the_run(folder: Folder) -> None:
    folder.write(
        """
        version = 1
        name = "a"
        extends = "sqlite"
        [settings]
        databases = ["/srv/{scratch}.db", "/srv/{{data}}.db"]
        [prove]
        start = ["x", "{databases}", "{data}"]
        [snapshot]
        provider = "command"
        argv = ["/bin/snap", "{databases}", "{name}", "{mounts}"]
        """
    )
    plan = folder.compile().plan
    application = plan.applications[0]
    assert application.mechanisms["sqlite"]["databases"] == ["/srv/{scratch}.db", "/srv/{{data}}.db"]
    assert application.prove is not None
    run = {"data": "/D", "scratch": "/S", "name": "N", "mounts": "M"}
    assert [fill(t, run) for t in application.prove.start] == [
        "x",
        "/srv/{scratch}.db",
        "/srv/{{data}}.db",
        "/D",
    ]
    assert [fill(t, run) for t in plan.snapshot.options["argv"]][1:] == [
        "/srv/{scratch}.db",
        "/srv/{{data}}.db",
        "N",
        "M",
    ]


def test_a_proof_takes_the_client_but_not_the_place(folder: Folder) -> None:
    prove = compile_paths(["postgresql"]).plan.applications[0].prove
    assert prove is not None
    session = prove.mechanisms["session"]
    assert "user" not in session
    assert session["environment"] == {
        "PGHOST": "{scratch}",
        "PGPORT": "5432",
        "PGUSER": "postgres",
        "PGDATABASE": "postgres",
    }
    assert fill(session["mark"], {}) == "\\echo {mark} :ERROR :SQLSTATE"


@pytest.mark.parametrize(
    "fact", ['["/etc/passwd", "x"]', '["../x", "x"]', '["a/../../x", "x"]', '["a", "("]']
)
def test_facts_come_from_below_the_data(folder: Folder, fact: str) -> None:
    folder.write(f'version = 1\nname = "a"\nextends = "postgresql"\n[prove.facts]\nmajor = {fact}\n')
    assert list(folder.problems()) == ["prove.facts.major"]


def test_a_typed_option_may_come_from_a_setting(folder: Folder) -> None:
    path = Path(
        folder.custom(
            "a",
            """
            [settings.seconds]
            type = "integer"
            default = 7
            [settings.codes]
            type = "strings"
            default = ["0"]
            [snapshot]
            provider = "command"
            argv = ["/bin/snap", "{seconds}"]
            deadline = "{seconds}"
            """,
        )
    )
    options = folder.compile().plan.snapshot.options
    assert options == {"argv": ["/bin/snap", "7"], "deadline": 7}
    path.write_text(path.read_text().replace('deadline = "{seconds}"', 'deadline = "{codes}"'))
    assert "not a number" in folder.problems()["snapshot.deadline"].message
    path.write_text(path.read_text().replace('deadline = "{codes}"', 'deadline = "7"'))
    assert "not a number or one placeholder" in folder.problems()["snapshot.deadline"].message
