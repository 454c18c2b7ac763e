"""No policy claims more than its mechanisms can give."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.plan import Level
from tests import groups
from tests.unit.policy.write import Folder


def frozen(level: str = "", more: str = "") -> str:
    return f'version = 1\nname = "a"\n{level}\n{groups.recipe("system.slice/a.service", more)}'


FLUSH = '[[quiesce]]\nmechanism = "command"\nargv = ["true"]\n'
"""A step that quiesces in truth, and that nothing proves."""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize("more", ["", FLUSH])
@pytest.mark.parametrize("level", ["application", "filesystem"])
def test_a_frozen_control_group_gives_crash_at_most(folder: Folder, level: str, more: str) -> None:
    folder.write(frozen(f'level = "{level}"', more))
    problem = folder.problems()["level"]
    assert problem.message == f"is {level}, but cgroup alone gives crash at most"
    assert problem.line == 3


def test_a_recipe_of_choose_is_held_to_it_too(folder: Folder) -> None:
    steps = frozen().partition("[[quiesce]]")[2]
    chosen = f"[[quiesce]]{steps}".replace("[[quiesce", "[[choose.quiesce").replace(
        "[[verify", "[[choose.verify"
    )
    chosen = chosen.replace("[[release", "[[choose.release")
    head = 'version = 1\nname = "a"\n[cgroup]\ngroups = ["a"]\n[[choose]]\nname = "frozen"\nlevel = "{}"\n'
    folder.write(head.format("filesystem") + chosen)
    assert folder.problems()["choose[0].level"].message.startswith(
        "is filesystem, but cgroup alone gives crash"
    )
    other = Folder(folder.path)
    other.write(head.format("crash") + chosen)
    assert other.compile().plan.applications[0].level is Level.CRASH


@pytest.mark.parametrize("level", ["", 'level = "crash"'])
def test_what_is_said_nowhere_is_what_it_can_give(folder: Folder, level: str) -> None:
    folder.write(frozen(level))
    plan = folder.compile().plan
    assert plan.applications[0].level is Level.CRASH
    assert plan.requested is Level.CRASH


def test_frozen_beside_a_real_quiesce_may_be_application(folder: Folder) -> None:
    folder.write(frozen(more=FLUSH + '[[verify]]\nmechanism = "command"\nargv = ["true"]\nproof = true\n'))
    assert folder.compile().plan.applications[0].level is Level.APPLICATION


def test_what_outlives_its_client_needs_a_recover(folder: Folder) -> None:
    folder.write(frozen().partition("[[recover]]")[0])
    assert "cgroup quiesces outlives" in folder.problems()["recover"].message
