"""What is outstanding is read from the journal, also from a torn one."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.journal import Event, Journal, ended, frozen_mounts, quiesced_applications, read


def event(name: str, t: float = 0.0, **facts: object) -> Event:
    return {"t": t, "event": name, **facts}


def test_round_trip_and_torn_last_line(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    journal = Journal(path)
    journal.note("begin", hold="x")
    journal.note("quiescing", app='a"\n$(b)')
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"t": 3, "event": "quies')
    assert [e["event"] for e in read(path)] == ["begin", "quiescing"]
    assert read(path)[1]["app"] == 'a"\n$(b)'


def test_no_journal_is_an_ended_one(tmp_path: Path) -> None:
    assert read(str(tmp_path / "none")) == []
    assert ended([])


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        Journal(str(tmp_path / "link"))
    assert not (tmp_path / "target").exists()


def test_an_intent_without_a_result_counts_as_frozen() -> None:
    events = [
        event("freezing", mount="/a"),
        event("frozen", mount="/a"),
        event("freezing", mount="/b"),
        event("freezing", mount="/c"),
        event("not_frozen", mount="/c"),
    ]
    assert frozen_mounts(events) == ["/b", "/a"]
    assert frozen_mounts([*events, event("thawed", mount="/a")]) == ["/b"]


def test_quiesced_in_reverse_order() -> None:
    events = [event("quiescing", app="a"), event("quiescing", app="b"), event("quiescing", app="c")]
    assert quiesced_applications(events) == ["c", "b", "a"]
    assert quiesced_applications([*events, event("released", app="c"), event("undone", app="a")]) == ["b"]


def test_ended() -> None:
    assert not ended([event("begin")])
    assert ended([event("begin"), event("end"), event("reported")])
    assert not ended([event("begin"), event("end"), event("begin")])


def test_a_full_disk_is_no_reason_to_raise(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    journal.close()
    journal.note("thawed", mount="/a")
