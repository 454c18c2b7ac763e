"""Whose a database is, by the file that is named; and what is opened is that file."""

from __future__ import annotations

import contextlib
import os
import pwd
import sqlite3
from pathlib import Path

import pytest

from app.errors import HostUnfit
from app.mechanisms import sqlite


def database(path: Path) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    return path


def test_a_database_that_is_a_link_is_refused_and_the_real_path_is_named(tmp_path: Path) -> None:
    real, link = database(tmp_path / "real.db"), tmp_path / "link.db"
    link.symlink_to(real)
    with pytest.raises(HostUnfit, match=r"link\.db: is a symbolic link") as raised:
        sqlite.judge(str(link))
    assert raised.value.hint == f"name the file itself: {real}"
    judged, owner = sqlite.judge(str(real))
    assert (judged.path, owner) == (str(real), os.geteuid())


@pytest.mark.timeout(10)
def test_a_pipe_in_the_place_of_a_database_hangs_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.db")
    for place in (tmp_path / "a.db", tmp_path):
        with pytest.raises(HostUnfit, match="is no regular file"):
            sqlite.judge(str(place))


def test_the_child_has_the_groups_of_its_user_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("web", "x", uid, 33, "", "/", "")))
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 44] if name == "web" else [])
    account = sqlite.account_of(1000)
    assert (account.uid, account.gid, account.groups) == (1000, 33, (33, 44))


def test_a_user_id_without_a_name_gets_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    account = sqlite.account_of(54321)
    assert (account.uid, account.gid, account.groups) == (54321, 65534, ())


def test_another_file_than_the_one_looked_at_is_not_opened(tmp_path: Path) -> None:
    judged, _ = sqlite.judge(str(database(tmp_path / "a.db")))
    os.rename(database(tmp_path / "b.db"), tmp_path / "a.db")
    with pytest.raises(sqlite3.OperationalError, match="another file"):
        sqlite._Database(judged, 1)


def test_a_folder_that_was_exchanged_is_seen(tmp_path: Path) -> None:
    """The very file, by a hard link, and a journal of somebody else's beside it."""
    (tmp_path / "own").mkdir()
    judged, _ = sqlite.judge(str(database(tmp_path / "own/a.db")))
    (tmp_path / "own").rename(tmp_path / "was")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.db").hardlink_to(tmp_path / "was/a.db")
    with pytest.raises(sqlite3.OperationalError, match="another file"):
        sqlite._Database(judged, 1)


def test_an_exchange_for_just_the_time_of_the_opening_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, _ = sqlite.judge(str(database(tmp_path / "a.db")))
    other = database(tmp_path / "b.db")
    opened = contextlib.closing(sqlite3.connect(other, isolation_level=None))
    with opened as connection:
        monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: connection)
        with pytest.raises(sqlite3.OperationalError, match="another file"):
            sqlite._Database(judged, 1)
