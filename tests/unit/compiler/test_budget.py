from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.policy.write import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_an_absent_timeout_is_what_the_scripts_need(folder: Folder) -> None:
    folder.custom("a", "[timing]\nquiesce = 7.5\nretries = 1\nrelease = 2.1")
    budget = folder.compile().budget
    assert str(budget.pre) == "10 (start) + 2 x 7.5 (a quiesce) + 2.1 (rollback) = 27.1 s"
    assert str(budget.post) == "10 (start) + 2.1 (a release) = 12.1 s"
    assert folder.compile().plan.framework.timeout_seconds == 28


def test_a_release_may_need_the_longer_timeout(folder: Folder) -> None:
    folder.custom("a", "[timing]\nquiesce = 1\nretries = 0\nrelease = 100")
    assert folder.compile().plan.framework.timeout_seconds == 111


def test_a_timeout_that_is_too_short_shows_the_sum(folder: Folder) -> None:
    path = folder.custom("orders", "[framework]\ntimeout_seconds = 60")
    problem = folder.problems()["framework.timeout_seconds"]
    assert problem.message == (
        "the pre-script needs 10 (start) + 3 x 30 (orders quiesce) + 30 (rollback) = 130 s, "
        "over timeoutInSeconds = 60"
    )
    assert (problem.file, problem.line) == (path, 4)


def test_what_waits_adds_up_and_what_is_parallel_does_not(folder: Folder) -> None:
    folder.custom("a", "[timing]\nquiesce = 20\nretries = 0\nrelease = 5")
    folder.custom("b", 'after = ["a"]\n[timing]\nquiesce = 30\nretries = 0\nrelease = 6')
    folder.custom("c", "[timing]\nquiesce = 45\nretries = 0\nrelease = 7")
    budget = folder.compile().budget
    assert str(budget.pre) == (
        "10 (start) + 1 x 20 (a quiesce) + 1 x 30 (b quiesce) + 5 (rollback of a) + 6 (rollback of b) = 71 s"
    )
    assert str(budget.post) == "10 (start) + 5 (a release) + 6 (b release) = 21 s"


def test_what_has_no_steps_needs_no_time(folder: Folder) -> None:
    folder.write('version = 1\nname = "a"\nextends = "filesystem"\n')
    budget = folder.compile().budget
    assert (budget.pre.total, budget.post.total, budget.timeout_seconds) == (10, 10, 10)


def test_more_than_the_framework_allows(folder: Folder) -> None:
    folder.custom("a", "[timing]\nquiesce = 700\nretries = 2")
    problem = folder.problems()["timing"]
    assert "= 2140 s, over the framework's limit of 1800 s" in problem.message


def test_the_whole_hold_fits(folder: Folder) -> None:
    folder.custom("a", "[timing]\nhold = 1700")
    assert folder.problems()["timing"].message == (
        "the whole hold needs 130 (pre) + 1700 (hold) + 40 (post) = 1870 s, over 1800 s"
    )


def test_the_hold_outlasts_the_freeze(folder: Folder) -> None:
    folder.custom("a", "[timing]\nhold = 59")
    assert (
        "shorter than the longest freeze, freeze.timeout = 60 s" in folder.problems()["timing.hold"].message
    )
    folder.files.clear()
    folder.custom("a", "[timing]\nhold = 59\n[freeze]\ntimeout = 50")
    assert not folder.problems()
    folder.files.clear()
    folder.custom("a", "[timing]\nhold = 59\n[freeze]\nenabled = false")
    assert not folder.problems()
