"""The kernel's grace periods, on a file that stands in for its setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.host.grace import GracePeriods, restore


@pytest.fixture
def setting(tmp_path: Path) -> Path:
    made = tmp_path / "rcu_expedited"
    made.write_text("0\n")
    return made


def test_short_for_as_long_as_it_lasts(setting: Path) -> None:
    told: list[tuple[bool, str]] = []
    periods = GracePeriods(str(setting))
    with periods.expedited(lambda on: told.append((on, setting.read_text()[0]))):
        assert setting.read_text()[0] == "1"
    assert setting.read_text()[0] == "0"
    assert told == [(True, "0"), (False, "0")], "told before it is changed, and after it is as it was"


def test_ordinary_again_after_an_error(setting: Path) -> None:
    with pytest.raises(RuntimeError), GracePeriods(str(setting)).expedited(lambda on: None):
        raise RuntimeError
    assert setting.read_text()[0] == "0"


def test_what_the_operator_chose_stays(setting: Path) -> None:
    setting.write_text("1\n")
    periods = GracePeriods(str(setting))
    with periods.expedited(lambda on: pytest.fail("nothing of ours to tell of")):
        pass
    periods.settle()
    periods.restore()
    assert setting.read_text() == "1\n"


def test_only_what_was_changed_is_settled(setting: Path) -> None:
    periods = GracePeriods(str(setting))
    setting.write_text("1\n")
    periods.settle()
    assert setting.read_text()[0] == "1", "somebody else's since"


def test_without_the_right_to_it(tmp_path: Path) -> None:
    with GracePeriods(str(tmp_path / "absent")).expedited(lambda on: pytest.fail("nothing was changed")):
        pass


def test_those_of_a_dead_hold_are_ordinary_again(tmp_path: Path) -> None:
    place = tmp_path / "rcu_expedited"
    place.write_text("1")
    restore(str(place))
    assert place.read_text() == "0"
    restore(str(tmp_path / "missing"))
