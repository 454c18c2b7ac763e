"""Which control groups are left, and for where; that it works is shown on a VM (tests/vm)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.host import cgroup
from app.host.mounts import parse_mountinfo


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for each hierarchy of a machine with both versions."""
    lines = []
    for number, (name, kind, options) in enumerate(
        [
            ("unified", "cgroup2", "rw"),
            ("systemd", "cgroup", "rw,xattr,name=systemd"),
            ("freezer", "cgroup", "rw,freezer"),
            ("memory", "cgroup", "rw,memory"),
        ]
    ):
        (tmp_path / name).mkdir()
        lines.append(f"{number} 1 0:{number} / {tmp_path}/{name} rw - {kind} cgroup {options}\n")
    monkeypatch.setattr(cgroup, "read_mounts", lambda: parse_mountinfo("".join(lines)))
    return tmp_path


def entered(top: Path) -> list[str]:
    assert all(path.read_text() == str(os.getpid()) for path in top.rglob("cgroup.procs"))
    return sorted(str(path.parent.relative_to(top)) for path in top.rglob("cgroup.procs"))


def test_leaves_what_can_be_ended_or_stopped_as_a_whole(top: Path) -> None:
    assert cgroup.stand_apart()
    assert entered(top) == ["freezer/stillframe", "systemd/stillframe", "unified/stillframe"]
    assert cgroup.stand_apart(), "the group is there already"


def test_takes_the_top_where_the_kernel_refuses_a_group(top: Path) -> None:
    (top / "freezer" / "stillframe").write_text("")
    assert cgroup.stand_apart()
    assert entered(top) == ["freezer", "systemd/stillframe", "unified/stillframe"]


def test_says_where_it_could_not_leave(top: Path) -> None:
    (top / "unified").rmdir()
    (top / "unified").write_text("")
    assert not cgroup.stand_apart()
    assert entered(top) == ["freezer/stillframe", "systemd/stillframe"]


def test_a_machine_without_control_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "read_mounts", list)
    assert not cgroup.stand_apart()
