"""What root reads of a restored copy, which belongs to somebody else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from app import prove
from app.errors import HostUnfit
from app.plan import Prove
from tests.unit import plans

RECIPE = Prove("", {}, (), (), {}, (), "TERM", 1.0, 1.0, {}, (), ())


def fact(data: Path, file: str = "PG_VERSION") -> str:
    """One fact; where the file will not do, prove says so before it makes or starts anything."""
    recipe = replace(RECIPE, facts={"major": (file, r"^(\d+)$")})
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return prove._read_facts(recipe, str(data), folder)["major"]
    finally:
        os.close(folder)


def test_a_fact_is_read_below_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    for file in ("PG_VERSION", "deep/er/PG_VERSION"):
        (tmp_path / file).write_text("15\n")
        assert fact(tmp_path, file) == "15"


@pytest.mark.timeout(10)
def test_a_pipe_in_the_place_of_a_fact_hangs_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "PG_VERSION")
    with pytest.raises(HostUnfit, match="PG_VERSION: is no regular file"):
        fact(tmp_path)


def test_a_link_in_the_place_of_a_fact_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/PG_VERSION").write_text("15\n")
    (tmp_path / "PG_VERSION").symlink_to("elsewhere/PG_VERSION")
    (tmp_path / "deep").symlink_to("elsewhere")
    with pytest.raises(HostUnfit, match="PG_VERSION: a symbolic link is on the way"):
        fact(tmp_path)
    with pytest.raises(HostUnfit, match="deep/PG_VERSION: "):
        fact(tmp_path, "deep/PG_VERSION")


def test_a_lock_file_that_is_a_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").mkdir()
    application = plans.application(prove=replace(RECIPE, remove=("gone", "postmaster.pid")))
    with pytest.raises(HostUnfit, match=r"postmaster\.pid: cannot be removed"):
        prove.prove(application, str(tmp_path), lambda words: None)
