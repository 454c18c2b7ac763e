"""A secret's name may stand where nobody but the client sees its text; its value never enters a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.plan import Plan, Secret
from app.template import fill_all
from tests.unit.policy.write import Folder

HEAD = 'version = 1\nname = "a"\nlevel = "crash"\n'
RECIPE = """
[[quiesce]]
mechanism = "session"
send = "HOLD"
[[release]]
mechanism = "session"
send = "GO"
"""
SESSION = '[session]\nargv = ["client"]\nmark = "ECHO {mark}"\nfailed = "^{mark} x"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_what_the_plan_says(folder: Folder) -> None:
    folder.write(
        HEAD
        + '[settings.at]\ntype = "path"\ndefault = "/etc/pw"\nsecret = true\n'
        + '[secrets.one]\nfile = "{at}"\n[secrets.two]\ncredential = "db.pw"\n'
        + '[secrets.three]\ncommand = ["/bin/tell", "{at}"]\n'
        + SESSION
        + 'login = ["AUTH {one:quoted} {{x}}"]\nfiles = { conf = "[c]\\np={two}\\n" }\n'
        + RECIPE.replace('"HOLD"', '"HOLD {{x}}"')
    )
    (application,) = folder.compile().plan.applications
    assert application.secrets == {
        "one": Secret(file="/etc/pw"),
        "two": Secret(credential="db.pw"),
        "three": Secret(command=("/bin/tell", "/etc/pw")),
    }
    options = application.mechanisms["session"]
    assert fill_all(options["login"], {"one": "p w"}) == ['AUTH "p\\x20w" {x}']
    assert fill_all(options["files"], {"two": "{z}"}) == {"conf": "[c]\np={z}\n"}
    assert application.variants[0].quiesce[0].do["send"] == "HOLD {x}"
    plan = folder.compile().plan
    assert Plan.from_json(plan.to_json()).digest() == plan.digest()


WHERE = {
    "session.argv[1]": SESSION.replace('["client"]', '["client", "{pw}"]') + RECIPE,
    "session.environment.PW": SESSION + 'environment = { PW = "{pw}" }\n' + RECIPE,
    "session.environment.login": SESSION + 'environment = { login = "{pw}" }\n' + RECIPE,
    "session.begin[0]": SESSION + 'begin = ["{pw:sql}"]\n' + RECIPE,
    "session.identity": SESSION + 'identity = "{pw:sql}"\n' + RECIPE,
    "session.through[0]": SESSION + 'through = ["{pw}"]\n' + RECIPE,
    "quiesce[0].send": SESSION + RECIPE.replace("HOLD", "HOLD {pw:sql}"),
    "quiesce[0].expect": SESSION + RECIPE.replace('"HOLD"', '"HOLD"\nexpect = "{pw:regex}"'),
    "snapshot.argv[1]": SESSION + RECIPE + '[snapshot]\nprovider = "command"\nargv = ["x", "{pw}"]\n',
    "secrets.other.command[1]": SESSION + RECIPE + '[secrets.other]\ncommand = ["x", "{pw}"]\n',
    "prove.files.x": SESSION + RECIPE + '[prove]\nfiles = { x = "{pw}" }\n',
    "prove.start[1]": SESSION + RECIPE + '[prove]\nstart = ["x", "{pw}"]\n',
    "http.url": '[http]\nurl = "http://{pw}"\n' + SESSION + RECIPE,
}


@pytest.mark.parametrize("key", WHERE)
def test_where_it_may_not_stand(folder: Folder, key: str) -> None:
    folder.write(HEAD + '[secrets.pw]\nfile = "/etc/pw"\n' + WHERE[key])
    problem = folder.problems()[key]
    assert problem.message == "{pw} is a secret, and would be seen here"
    lines = Path(folder.files[0]).read_text().splitlines()
    assert problem.line is not None
    assert "{pw" in lines[problem.line - 1]


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        ("", "secrets.pw", "names no source"),
        ('file = "/a"\ncredential = "b"', "secrets.pw", "names file and credential"),
        ('file = "a"', "secrets.pw.file", "full"),
        ('file = "/a/../b"', "secrets.pw.file", "not a full, normal path"),
        ('credential = "../b"', "secrets.pw.credential", "not allowed"),
        ('credential = ".b"', "secrets.pw.credential", "not allowed"),
        ("command = []", "secrets.pw.command", "empty list"),
        ('environment = "A"', "secrets.pw.environment", "unknown key"),
    ],
)
def test_a_source_that_is_none(folder: Folder, table: str, key: str, said: str) -> None:
    folder.write(HEAD + f"[secrets.pw]\n{table}\n" + SESSION + RECIPE)
    problem = folder.problems()[key]
    assert said in f"{problem.message} {problem.hint}"


@pytest.mark.parametrize(
    ("more", "key", "said"),
    [
        ('[settings.pw]\ntype = "string"\ndefault = "x"\n', "secrets.pw", "is a setting too"),
        ("", "quiesce[0].save", "is a secret"),
    ],
)
def test_a_name_has_one_meaning(folder: Folder, more: str, key: str, said: str) -> None:
    recipe = RECIPE.replace('"HOLD"', '"HOLD"\nsave = "pw"') if "save" in key else RECIPE
    folder.write(HEAD + more + '[secrets.pw]\nfile = "/etc/pw"\n' + SESSION + recipe)
    assert said in folder.problems()[key].message


def test_a_private_file_has_a_name_of_its_own(folder: Folder) -> None:
    more = '[settings.port]\ntype = "integer"\ndefault = 1\n' + SESSION + 'files = { pw = "x", port = "y" }\n'
    folder.write(HEAD + '[secrets.pw]\nfile = "/etc/pw"\n' + more + RECIPE)
    problems = folder.problems()
    assert "another meaning" in problems["session.files.pw"].message
    assert "another meaning" in problems["session.files.port"].message


def test_a_private_file_may_stand_in_the_place_of_a_path(folder: Folder) -> None:
    """What a shipped policy lets one set as a path, such as MariaDB's option_file."""
    setting = '[settings.conf]\ntype = "path"\ndefault = "/dev/null"\n'
    session = SESSION.replace('["client"]', '["client", "--c={conf}", "{conf}"]')
    folder.write(HEAD + setting + session + 'files = { conf = "x" }\n' + RECIPE)
    assert folder.compile().plan.applications[0].mechanisms["session"]["argv"] == [
        "client",
        "--c={conf}",
        "{conf}",
    ]
    plain = Folder(folder.path)
    plain.write(HEAD + setting + session + RECIPE, "plain.toml")
    argv = plain.compile().plan.applications[0].mechanisms["session"]["argv"]
    assert argv == ["client", "--c=/dev/null", "/dev/null"]


def test_no_private_file_behind_another_program(folder: Folder) -> None:
    more = 'files = { conf = "x" }\nthrough = ["podman", "exec", "db"]\n'
    folder.write(HEAD + SESSION + more + RECIPE)
    assert "behind through" in folder.problems()["session.files"].message


def test_a_private_file_is_named_in_argv_and_environment_only(folder: Folder) -> None:
    more = 'files = { conf = "x" }\nenvironment = { CONF = "{conf}" }\n'
    folder.write(HEAD + SESSION.replace('["client"]', '["client", "--c={conf}"]') + more + RECIPE)
    options = folder.compile().plan.applications[0].mechanisms["session"]
    assert options["argv"] == ["client", "--c={conf}"]
    assert options["environment"] == {"CONF": "{conf}"}
    other = Folder(folder.path)
    other.write(HEAD + SESSION + more + RECIPE.replace("HOLD", "HOLD {conf:word}"))
    assert "no setting" in other.problems()["quiesce[0].send"].message


def test_an_operator_s_source_replaces_the_whole_one(folder: Folder) -> None:
    (folder.path / "base.toml").write_text(
        HEAD + '[secrets.pw]\nfile = "/etc/pw"\n' + SESSION + 'login = ["AUTH {pw:quoted}"]\n' + RECIPE
    )
    folder.write('version = 1\nname = "b"\nextends = "./base.toml"\n[secrets.pw]\ncredential = "mine"\n')
    assert folder.compile().plan.applications[0].secrets == {"pw": Secret(credential="mine")}


def test_a_proof_takes_over_what_it_needs(folder: Folder) -> None:
    check = '[[prove.check]]\nmechanism = "command"\nargv = ["check", "{conf}"]\n'
    live = '[command]\nfiles = { conf = "{pw}", other = "{pw}" }\n'
    folder.write(HEAD + '[secrets.pw]\nfile = "/etc/pw"\n' + SESSION + RECIPE + live + check)
    prove = folder.compile().plan.applications[0].prove
    assert prove is not None
    assert prove.mechanisms["command"]["files"] == {"conf": "{pw}"}
    assert prove.check[0].do["argv"] == ["check", "{conf}"]


def test_a_list_of_options_may_name_a_private_file(folder: Folder) -> None:
    """As OpenLDAP's bind does; the file itself is put in its place when the program is started."""
    setting = '[settings.bind]\ntype = "strings"\ndefault = []\n'
    step = '[[{}]]\nmechanism = "command"\nargv = ["client", "{{bind}}", "x"]\n'
    more = step.format("quiesce") + 'expect = "(.*)"\nsave = "was"\n' + step.format("release")
    more += step.format("release").replace('"x"', '"{was:word}"') + step.format("recover")
    (folder.path / "base.toml").write_text(HEAD + setting + more)
    head = 'version = 1\nname = "b"\nextends = "./base.toml"\n[secrets.pw]\nfile = "/etc/pw"\n'
    folder.write(head + '[settings]\nbind = ["-y", "{bound}"]\n[command]\nfiles = { bound = "{pw}" }\n')
    (variant,) = folder.compile().plan.applications[0].variants
    assert variant.release[0].do["argv"] == ["client", "-y", "{bound}", "x"]
    assert fill_all(variant.release[1].do["argv"], {"was": "y"}) == ["client", "-y", "{bound}", "y"]


def test_what_every_command_reads_may_hold_a_secret_and_is_not_taken_over(folder: Folder) -> None:
    step = '[[{}]]\nmechanism = "command"\nargv = ["client"]\n'
    more = "".join(step.format(key) for key in ("quiesce", "release", "recover", "prove.check"))
    folder.write(HEAD + '[secrets.pw]\nfile = "/etc/pw"\n[command]\nstdin = "{pw}\\n{{x}}"\n' + more)
    (application,) = folder.compile().plan.applications
    assert fill_all(application.mechanisms["command"]["stdin"], {"pw": "p {w}"}) == "p {w}\n{x}"
    assert application.prove is not None
    assert application.prove.mechanisms["command"] == {}
