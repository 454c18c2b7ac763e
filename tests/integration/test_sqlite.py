"""Root opens a database as its owner: which rights the child has then, and where it is not opened at all."""

from __future__ import annotations

import contextlib
import os
import pwd
import sqlite3
import time
from pathlib import Path

import pytest

from app.errors import HostUnfit
from app.mechanisms import Waiter, sqlite
from app.plan import Step

pytestmark = [pytest.mark.integration, pytest.mark.root]

NOBODY = pwd.getpwnam("nobody")
NAMELESS = 54321


@pytest.fixture
def place(on_tmpfs: Path) -> Path:
    """A folder that everybody can pass through."""
    on_tmpfs.chmod(0o755)
    return on_tmpfs


def make(folder: Path, owner: int, group: int, folder_owner: int, mode: int = 0o755) -> Path:
    folder.mkdir()
    path = folder / "a.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    os.chown(path, owner, group)
    os.chown(folder, folder_owner, group)
    folder.chmod(mode)
    return path


def rights(database: Path) -> dict[str, list[int]]:
    """The ids under which the child holds a database."""
    pids: list[int] = []
    deadline = time.monotonic() + 10
    connection = sqlite.connect({"databases": [str(database)]}, [], Waiter(), pids.append, deadline)
    try:
        connection.perform(Step("sqlite", {"action": "lock"}), deadline)
        lines = Path(f"/proc/{pids[0]}/status").read_text().splitlines()
    finally:
        connection.kill()
    words = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return {name: sorted(set(map(int, words[name]))) for name in ("Uid", "Gid", "Groups")}


def test_the_child_does_not_get_the_files_group(place: Path) -> None:
    """app:root is what a chown by root alone leaves: its group opens much, and is not the user's."""
    found = rights(make(place / "own", NOBODY.pw_uid, 0, NOBODY.pw_uid))
    groups = sorted(set(os.getgrouplist("nobody", NOBODY.pw_gid)))
    assert found == {"Uid": [NOBODY.pw_uid], "Gid": [NOBODY.pw_gid], "Groups": groups}
    assert 0 not in found["Groups"]


def test_a_nameless_owner_has_no_groups(place: Path) -> None:
    found = rights(make(place / "own", NAMELESS, 0, NAMELESS))
    assert found == {"Uid": [NAMELESS], "Gid": [sqlite.NO_GROUP], "Groups": []}


def test_a_link_does_not_choose_whom_the_child_becomes(place: Path) -> None:
    """A user's link to a database of another's: it was opened as that other, who had asked nobody."""
    theirs = make(place / "theirs", NOBODY.pw_uid, NOBODY.pw_gid, NOBODY.pw_uid)
    (place / "mine").mkdir()
    (place / "mine/a.db").symlink_to(theirs)
    os.lchown(place / "mine/a.db", NAMELESS, NAMELESS)
    os.chown(place / "mine", NAMELESS, NAMELESS)
    with pytest.raises(HostUnfit, match="is a symbolic link"):
        rights(place / "mine/a.db")


@pytest.mark.parametrize(
    ("owner", "folder_owner", "mode", "wrong"),
    [
        (NOBODY.pw_uid, NAMELESS, 0o755, "its folder to user 54321"),
        (0, NAMELESS, 0o755, "its folder to user 54321"),
        (0, 0, 0o1777, "others may put files beside it"),
        (NOBODY.pw_uid, 0, 0o1777, "others may put files beside it"),
        (NOBODY.pw_uid, NOBODY.pw_uid, 0o777, "others may put files beside it"),
        (0, 0, 0o1770, "others may put files beside it"),
    ],
)
def test_where_others_can_put_a_journal_beside_it_nothing_is_opened(
    place: Path, owner: int, folder_owner: int, mode: int, wrong: str
) -> None:
    with pytest.raises(HostUnfit, match=wrong):
        rights(make(place / "own", owner, 0, folder_owner, mode))


@pytest.mark.parametrize(
    ("owner", "folder_owner", "mode"),
    [(0, 0, 0o755), (NOBODY.pw_uid, 0, 0o775), (NOBODY.pw_uid, NOBODY.pw_uid, 0o770)],
)
def test_folders_of_its_owner_and_of_roots_will_do(
    place: Path, owner: int, folder_owner: int, mode: int
) -> None:
    assert rights(make(place / "own", owner, NOBODY.pw_gid, folder_owner, mode))["Uid"] == [owner]
