from __future__ import annotations

from pathlib import Path

import pytest

from app.compiler import compile_paths
from app.compiler.explain import WIDTH, explain, to_json
from app.compiler.outcomes import outcomes
from app.errors import FRAMEWORK_ERRORS
from tests.unit.policy.write import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_says_what_is_done_in_order(folder: Folder) -> None:
    path = folder.write(
        'version = 1\nname = "db"\nextends = "sqlite"\nafter = ["postgresql"]\n'
        '[settings]\ndatabases = ["/d"]\n'
    )
    text = explain(compile_paths(["postgresql", path]))
    positions = [
        text.index(words)
        for words in (
            "quiesce postgresql",
            "SELECT pg_backup_start('stillframe', true);",
            "quiesce db after postgresql",
            "sqlite lock: /d",
            "freezes the filesystems",
            "takes the snapshot",
            "check and release db",
            "check and release postgresql",
            "TIME BUDGET",
            "3 x 30 (postgresql quiesce) + 3 x 30 (db quiesce)",
            "WHAT THE BACKUP WILL BE",
        )
    ]
    assert positions == sorted(positions)


@pytest.mark.parametrize("more", ["", '[failure]\nbackup = "fail"', "[freeze]\nenabled = false"])
def test_every_published_error_is_named(folder: Folder, more: str) -> None:
    folder.custom("a", more)
    compiled = folder.compile()
    assert {name for outcome in outcomes(compiled.plan) for name in outcome.reported} == set(FRAMEWORK_ERRORS)
    text = " ".join(explain(compiled).split())
    assert all(name in text for name in FRAMEWORK_ERRORS)


def outcome(folder: Folder, event: str) -> str:
    return next(o.backup for o in outcomes(folder.compile().plan) if o.event.startswith(event))


def test_the_decision_table_going_on(folder: Folder) -> None:
    folder.custom("a")
    assert outcome(folder, "everything") == "application-consistent"
    assert outcome(folder, "pre-script fails") == "goes on, filesystem-consistent"
    assert outcome(folder, "post-script fails").startswith("the snapshot stands")
    assert outcome(folder, "a script is missing").startswith("goes on, filesystem-consistent")


def test_the_decision_table_failing(folder: Folder) -> None:
    folder.custom("a", '[failure]\nbackup = "fail"')
    assert outcome(folder, "pre-script fails").startswith(
        "FAILS, without a snapshot; the post-script still runs"
    )
    assert "the backup FAILS: continueBackupOnFailure is false" in outcome(folder, "post-script fails")
    assert outcome(folder, "a script is missing").startswith("FAILS")
    assert outcome(folder, "the config has").startswith("goes on, filesystem-consistent, whatever")


def test_without_a_freeze_any_failure_fails(folder: Folder) -> None:
    folder.custom("a", "[freeze]\nenabled = false")
    assert outcome(folder, "pre-script fails").startswith(
        "FAILS, without a snapshot: fsFreezeEnabled is false"
    )
    assert "the backup FAILS: fsFreezeEnabled is false" in outcome(folder, "post-script fails")
    assert "freezes the filesystems" not in explain(folder.compile())


def test_a_success_is_not_called_more_than_it_is() -> None:
    compiled = compile_paths(["filesystem"])
    assert "The portal says application-consistent all the same" in " ".join(explain(compiled).split())


def test_is_plain_narrow_text(folder: Folder) -> None:
    folder.custom("a", 'required = false\n[freeze]\nskip = ["/mnt/x"]\nmounts = ["/srv"]')
    text = explain(compile_paths([*folder.files, "postgresql"]))
    assert text.isascii()
    assert all(len(line) <= WIDTH and line == line.rstrip() for line in text.splitlines())
    assert "but /mnt/x" in text


def test_escapes_what_a_terminal_would_obey(folder: Folder) -> None:
    path = Path(folder.custom("a"))
    path.write_text(path.read_text().replace('["/bin/pause"]', '["/bin/pause", "\\u001b[31m\\u202e"]'))
    text = explain(folder.compile())
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_json_has_the_same(folder: Folder) -> None:
    folder.custom("a", "[freeze]\nskip = ['/x']")
    data = to_json(folder.compile())
    assert data["budget"]["pre"]["sum"].endswith("= 130 s")
    assert data["applications"][0]["recipes"][0]["quiesce"] == ["/bin/pause"]
    assert len(data["outcomes"]) >= 10


def test_hazards_of_a_policy_are_named(folder: Folder) -> None:
    folder.custom("a", '[hazards]\nfanotify = "warning"')
    compiled = folder.compile()
    assert "([hazards]): fanotify warning." in " ".join(explain(compiled).split())
    assert to_json(compiled)["hazards"]["fanotify"] == "warning"
    assert to_json(compiled)["hazards"]["nfs-export"] == "warning"
    assert to_json(compiled)["hazards"]["loop-order"] == "fatal"
