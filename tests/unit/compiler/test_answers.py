"""Steps that depend on answers, and policies that are for one role: what compiling makes and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.policy.write import Folder

LEVEL = """
version = 1
name = "level"
level = "crash"
MORE
[settings.mode]
type = "string"
default = "gentle"
choices = ["gentle", "rough"]

[[quiesce]]
mechanism = "command"
argv = ["/bin/ctl", "show"]
expect = '^level ([0-9]+)$'
save = ["old"]
[[quiesce]]
mechanism = "command"
argv = ["/bin/ctl", "flush"]
settings = { mode = "rough" }
[[quiesce]]
mechanism = "command"
argv = ["/bin/ctl", "set", "0", "{{{old}"]
when = { old = '^[1-9]' }
STEP
[[release]]
mechanism = "command"
argv = ["/bin/ctl", "set", "{old}"]
expect = "^now {old:regex}$"
within = 5
[[recover]]
mechanism = "command"
argv = ["/bin/ctl", "set", "{old:word}"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def policy(more: str = "", step: str = "") -> str:
    return LEVEL.replace("MORE", more).replace("STEP", step)


def test_answers_stay_placeholders_of_the_run(folder: Folder) -> None:
    folder.write(policy())
    application = folder.compile().plan.applications[0]
    (show, put), (back,), (recover,) = (
        application.variants[0].quiesce,
        application.variants[0].release,
        application.recover,
    )
    assert (show.staged, put.staged, back.staged, recover.staged) == (False, True, True, True)
    assert put.do["argv"][-1] == "{{{old}"
    assert put.when == {"old": "^[1-9]"}
    assert (back.within, back.pause) == (5.0, 0.2)
    assert recover.do["argv"] == ["/bin/ctl", "set", "{old:word}"]


def test_a_step_for_other_settings_is_left_out(folder: Folder) -> None:
    folder.write(policy())
    assert len(folder.compile().plan.applications[0].variants[0].quiesce) == 2
    folder.files.clear()
    folder.write(policy().replace('default = "gentle"', 'default = "rough"'))
    assert len(folder.compile().plan.applications[0].variants[0].quiesce) == 3


ROUGH = """
[[quiesce]]
mechanism = "command"
argv = ["/bin/ctl", "size"]
settings = { mode = "rough" }
save = ["size"]
[[verify]]
mechanism = "command"
argv = ["/bin/ctl", "check", "{size}"]
expect = "^{size:regex}$"
when = { size = "." }
unchanged = "size"
settings = { mode = "rough" }
"""


@pytest.mark.parametrize(("mode", "steps"), [("gentle", 0), ("rough", 1)])
def test_steps_for_other_settings_are_left_out_together(folder: Folder, mode: str, steps: int) -> None:
    folder.write(policy(step=ROUGH).replace('default = "gentle"', f'default = "{mode}"'))
    assert len(folder.compile().plan.applications[0].variants[0].verify) == steps


def test_what_is_needed_in_all_settings_is_not_saved_in_some(folder: Folder) -> None:
    step = ROUGH.replace('unchanged = "size"\nsettings = { mode = "rough" }', "")
    folder.write(policy(step=step))
    assert "verify[0].argv[2]" in folder.problems()
    folder.files.clear()
    folder.write(policy(step=step).replace('default = "gentle"', 'default = "rough"'))
    assert not folder.problems()


@pytest.mark.parametrize(
    ("step", "key", "words"),
    [
        ("[[quiesce]]\nmechanism = 'command'\nargv = ['{later}']", "quiesce[3].argv[0]", "no setting"),
        (
            "[[quiesce]]\nmechanism = 'command'\nargv = ['x']\nwhen = { later = 'x' }",
            "quiesce[3].when.later",
            "no earlier step",
        ),
        (
            "[[quiesce]]\nmechanism = 'command'\nargv = ['x']\nwhen = { old = '(' }",
            "quiesce[3].when.old",
            "no regular expression",
        ),
        ("[[quiesce]]\nmechanism = 'command'\nargv = ['x']\nwithin = 5", "quiesce[3].within", "needs expect"),
        (
            "[[quiesce]]\nmechanism = 'command'\nargv = ['x']\nsave = 'mode'",
            "quiesce[3].save",
            "is a setting",
        ),
        (
            "[[quiesce]]\nmechanism = 'command'\nargv = ['x']\nsettings = { mod = 'x' }",
            "quiesce[3].settings.mod",
            "no declared setting",
        ),
    ],
)
def test_wrong_conditions(folder: Folder, step: str, key: str, words: str) -> None:
    folder.write(policy(step=step))
    found = folder.problems()
    assert list(found) == [key], found
    assert words in found[key].message


ROLES = """
[roles]
ask = { mechanism = "command", argv = ["/bin/ctl", "role"] }
primary = '^master'
standby = '^slave'
"""


def test_a_role_is_asked_for_by_a_step(folder: Folder) -> None:
    folder.write(policy('role = "standby"') + ROLES)
    role = folder.compile().plan.applications[0].role
    assert role is not None
    assert (role.wanted, role.primary, role.standby) == ("standby", "^master", "^slave")
    assert role.ask.do["argv"] == ["/bin/ctl", "role"]


def test_wrong_roles(folder: Folder) -> None:
    folder.write(policy('role = "standby"'))
    assert "does not say how" in folder.problems()["role"].message
    folder.files.clear()
    folder.write(policy('role = "boss"') + ROLES.replace("^slave", "("))
    assert list(folder.problems()) == ["role", "roles.standby"]


def test_the_dead_man_time_outlives_the_hold(folder: Folder) -> None:
    text = policy("[timing]\nquiesce = 10\nhold = 70\nrelease = 5\n")
    folder.write(
        text.replace('"flush"', '"{deadman_seconds}", "{deadman_milliseconds}"').replace("rough", "gentle")
    )
    quiesce = folder.compile().plan.applications[0].variants[0].quiesce
    assert quiesce[1].do["argv"] == ["/bin/ctl", "85", "85000"]
