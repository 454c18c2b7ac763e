"""Reports are numbered, kept whole, and pruned."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app import history
from app.errors import HostUnfit, Misused
from app.paths import Paths, paths


@pytest.fixture
def where(tmp_path: Path) -> Paths:
    return paths({"STILLFRAME_PREFIX": str(tmp_path)})


def test_numbers_go_on_and_the_oldest_go(where: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    assert [history.save(where, {"hold": str(n)}) for n in range(5)] == [1, 2, 3, 4, 5]
    assert history.numbers(where) == [3, 4, 5]
    assert history.load(where, None)["hold"] == "4"
    assert history.load(where, 3) == {"number": 3, "hold": "2"}


def test_there_is_none(where: Paths) -> None:
    with pytest.raises(Misused, match="no report yet"):
        history.load(where, None)
    history.save(where, {})
    with pytest.raises(Misused, match="no report 7"):
        history.load(where, 7)


def test_a_damaged_one_is_said_so(where: Paths) -> None:
    history.save(where, {})
    (Path(where.reports) / "000001.json").write_text("{", encoding="utf-8")
    with pytest.raises(HostUnfit, match="not a report"):
        history.load(where, 1)


def test_a_write_that_fails_leaves_no_report(where: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        history.save(where, {})
    assert history.numbers(where) == []
    assert os.listdir(where.reports) == [], "a partial file would fill the disk further"


def test_partial_reports_of_killed_savers_do_not_pile_up(where: Paths) -> None:
    history.save(where, {})
    dead, alive = 1 << 30, os.getppid()
    partial = [f".000002.{dead}", f".000001.{os.getpid()}", f".000002.{alive}", ".000002.x"]
    for name in partial:
        (Path(where.reports) / name).write_text("{")
    assert history.save(where, {}) == 2
    assert sorted(os.listdir(where.reports)) == [
        f".000002.{alive}",
        ".000002.x",
        "000001.json",
        "000002.json",
    ]


def test_files_are_private(where: Paths) -> None:
    history.save(where, {})
    assert (Path(where.reports) / "000001.json").stat().st_mode & 0o777 == 0o600
    assert Path(where.reports).stat().st_mode & 0o777 == 0o700
