"""Which control groups a policy may name, and that ours is known by every name that it can be given."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import HostUnfit
from app.mechanisms import Waiter, cgroup
from app.plan import Step
from tests import groups
from tests.unit.policy.write import Folder

HEAD = 'version = 1\nname = "a"\n'

SECOND_NAMES = [
    "a//b",
    "a/./b",
    "./a/b",
    "a/b/.",
    "//a/b",
    "a/b//",
    "a/../b",
    "../b",
    "a/b/..",
    ".",
    "..",
    "/",
    "",
]


@pytest.mark.parametrize("name", SECOND_NAMES)
def test_a_second_name_of_a_group_does_not_compile(name: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write(HEAD + groups.recipe(name))
    assert list(folder.problems()) == ["cgroup.groups[0]"]


@pytest.mark.parametrize(
    "name", ["a", "/a/b", "a/b/", "system.slice/a@1:2.service", "...", "a/..b/.c", "a b"]
)
def test_a_plain_name_compiles(name: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write(HEAD + groups.recipe(name))
    assert folder.problems() == {}


@pytest.mark.parametrize("name", ["ours", "/ours/", "ours//us", "ours/./us", "./ours", "//ours///us/."])
def test_our_own_group_is_refused_by_every_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours/us").mkdir(parents=True)
    for folder in ("ours", "ours/us"):
        (tmp_path / folder / "cgroup.freeze").write_text("0")
    monkeypatch.setattr(cgroup, "_hierarchies", lambda kind: [str(tmp_path)] if kind == "cgroup2" else [])
    monkeypatch.setattr(cgroup, "_memberships", lambda pid, kind: ["/ours/us"] if pid == "self" else ["/"])
    with pytest.raises(HostUnfit, match="holds app itself"):
        cgroup.connect(
            {"groups": [name]}, [Step("cgroup", {"action": "note"})], Waiter(), lambda pid: None, 1.0
        )
