from __future__ import annotations

from pathlib import Path

import pytest

from app.compiler import compile_paths
from app.errors import PolicyInvalid, Problem
from app.plan import Plan
from tests.unit.policy.write import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_quiesce_order_is_by_after_and_then_by_name(folder: Folder) -> None:
    folder.custom("a", 'after = ["c"]')
    folder.custom("b")
    folder.custom("c", 'after = ["d"]')
    folder.custom("d")
    assert [a.name for a in folder.compile().plan.applications] == ["b", "d", "c", "a"]


def test_circles_duplicates_and_unknown_names_of_after(folder: Folder) -> None:
    folder.custom("a", 'after = ["c"]')
    folder.custom("b", 'after = ["a"]')
    folder.custom("c", 'after = ["b"]')
    assert folder.problems()["after"].message == "goes round in a circle: a after c after b after a"
    folder.files.clear()
    folder.custom("a", 'after = ["a"]')
    folder.custom("orders", 'after = ["oders", "a"]')
    folder.write('version = 1\nname = "a"\nextends = "filesystem"\n')
    problems = folder.problems()
    assert "unique on a VM" in problems["name"].hint
    assert "none of the policies" in problems["after[0]"].message
    assert any("cannot come after itself" in p.message for p in _all(folder))


def _all(folder: Folder) -> list[Problem]:
    with pytest.raises(PolicyInvalid) as caught:
        compile_paths(folder.files)
    return list(caught.value.problems)


def test_an_unreadable_policy_is_not_also_an_unknown_name(folder: Folder) -> None:
    folder.custom("a", 'after = ["b"]')
    folder.files.append(str(folder.path / "b.toml"))
    assert list(folder.problems()) == [""]


AGREE = [
    ("[framework]\npoll_seconds = 1", "[framework]\npoll_seconds = 2", "framework.poll_seconds"),
    ("[framework]\npre_params = ['a']", "[framework]\npre_params = ['b']", "framework.pre_params"),
    ("[freeze]\nenabled = true", "[freeze]\nenabled = false", "freeze.enabled"),
    ("[freeze]\nmounts = 'auto'", "[freeze]\nmounts = ['/x']", "freeze.mounts"),
    ("[snapshot]\nprovider = 'none'", "[snapshot]\nprovider = 'azure-backup'", "snapshot.provider"),
    (
        "[snapshot]\nprovider = 'none'\nseconds = 1",
        "[snapshot]\nprovider = 'none'\nseconds = 2",
        "snapshot.seconds",
    ),
]


@pytest.mark.parametrize(("one", "other", "key"), AGREE)
def test_what_holds_for_the_vm_must_agree(folder: Folder, one: str, other: str, key: str) -> None:
    first = folder.custom("a", one)
    second = folder.custom("b", other)
    folder.custom("c")
    problem = folder.problems()[key]
    assert problem.file == second
    assert f"{first}:" in problem.message


def test_skips_join_and_the_stricter_failure_wins(folder: Folder) -> None:
    folder.custom("a", '[freeze]\nskip = ["/b"]\n[failure]\nbackup = "continue"')
    folder.custom("b", '[freeze]\nskip = ["/a", "/b"]\n[failure]\nbackup = "fail"')
    compiled = folder.compile()
    assert compiled.plan.freeze.skip == ("/a", "/b")
    assert compiled.plan.framework.continue_backup_on_failure is False


def test_a_mount_is_not_frozen_and_skipped(folder: Folder) -> None:
    folder.custom("a", '[freeze]\nmounts = ["/x", "/y/../z"]\nskip = ["/x"]')
    assert {key: p.message for key, p in folder.problems().items()} == {
        "freeze.mounts[0]": '"/x" is also in freeze.skip',
        "freeze.mounts[1]": '"/y/../z" is not a full, normal path',
    }


def test_options_belong_to_the_provider(folder: Folder) -> None:
    folder.custom("a", "[snapshot]\nprovider = 'none'\nargv = ['x']")
    assert "unknown key" in folder.problems()["snapshot.argv"].message
    folder.files.clear()
    folder.custom("a", "[snapshot]\nprovider = 'command'")
    assert "is missing" in folder.problems()["snapshot.argv"].message
    folder.files.clear()
    folder.custom("a", "[snapshot]\nargv = ['x']")
    assert "unknown key" in folder.problems()["snapshot.argv"].message


LOCATIONS = [
    ("pre_location = '/a/'", "pre_location"),
    ("pre_location = 'a'", "pre_location"),
    ("pre_location = '/a/../b'", "pre_location"),
    ("pre_location = '/a'\npost_location = '/a'", "post_location"),
    ("plugin_name = 'x'", "plugin_name"),
    ("timeout_seconds = 1801", "timeout_seconds"),
    ("timeout_seconds = 0", "timeout_seconds"),
    ("app_name = ''", "app_name"),
    ('pre_params = ["a\\nb"]', "pre_params[0]"),
    ("pre_retries = -1", "pre_retries"),
]


@pytest.mark.parametrize(("more", "key"), LOCATIONS)
def test_limits_of_the_framework(folder: Folder, more: str, key: str) -> None:
    folder.custom("a", f"[framework]\n{more}")
    assert list(folder.problems()) == [f"framework.{key}"]


@pytest.mark.parametrize(
    ("locations", "key"),
    [
        ("pre_location = '/etc/azure/vmbackup.conf'", "pre_location"),
        ("pre_location = '/etc/azure/VMSnapshotPluginHost.conf'", "pre_location"),
        ("post_location = '/etc/azure/VMSnapshotScriptPluginConfig.json'", "post_location"),
        ("post_location = '/etc/azure/stillframe/plan.json'", "post_location"),
        ("post_location = '/etc/azure/stillframe/manifest.json'", "post_location"),
        ("pre_location = '/etc/azure/stillframe/post.sh'", "pre_location"),
        ("pre_location = '/etc/azure/stillframe'", "pre_location"),
        ("pre_location = '/etc/azure'", "pre_location"),
        ("post_location = '/etc'", "post_location"),
        ("post_location = '/etc/azure/stillframe/pre.sh/post'", "post_location"),
        ("pre_location = '/a'\npost_location = '/a/b'", "post_location"),
        ("pre_location = '/a/b'\npost_location = '/a'", "post_location"),
    ],
)
def test_no_script_is_written_where_another_file_or_a_folder_is(
    folder: Folder, locations: str, key: str
) -> None:
    path = folder.custom("a", f"[framework]\n{locations}")
    assert list(folder.problems()) == [f"framework.{key}"]
    problem = folder.problems()[f"framework.{key}"]
    line = Path(path).read_text().splitlines().index(next(x for x in locations.split("\n") if key in x))
    assert (problem.file, problem.line) == (path, line + 1)
    assert "file of its own" in problem.hint


def test_scripts_may_be_beside_the_set_and_in_each_others_places(folder: Folder) -> None:
    own = "/etc/azure/stillframe"
    folder.custom("a", f"[framework]\npre_location = '{own}/post.sh'\npost_location = '{own}/pre.sh'")
    folder.custom("b", f"[framework]\npre_location = '{own}/post.sh'")
    assert not folder.problems()
    folder.files.clear()
    folder.custom("a", "[framework]\npre_location = '/etc/azure/pre.sh'\npost_location = '/etc/azure.sh'")
    assert not folder.problems()


def test_the_strictest_severity_of_a_hazard_holds(folder: Folder) -> None:
    folder.custom("a", '[hazards]\nfanotify = "warning"\nauditd = "ignore"\nnfs-export = "ignore"')
    folder.custom("b", '[hazards]\nfanotify = "ignore"\nauditd = "fatal"')
    folder.custom("c")
    plan = folder.compile().plan
    assert plan.hazards == {"fanotify": "warning", "auditd": "fatal", "nfs-export": "ignore"}
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('fanotify = "no"', "fanotify"),
        ('fan = "fatal"', "fan"),
        ('journal-frozen = "ignore"', "journal-frozen"),
    ],
)
def test_hazards_that_a_policy_cannot_set(folder: Folder, line: str, key: str) -> None:
    folder.custom("a", f"[hazards]\n{line}")
    assert list(folder.problems()) == [f"hazards.{key}"]
