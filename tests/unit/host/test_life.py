"""Whether a process lives and moves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.host.life import STOPPED_BEATS, Life, Started


class Standin(Life):
    """A process of which the kernel says what the test wrote down."""

    def __init__(self, stat: Path) -> None:
        self.pid = 0
        self._stat = os.open(stat, os.O_RDONLY)
        self.killed = False

    def ended(self, seconds: float = 0.0) -> bool:
        return self.killed

    def kill_group(self) -> None:
        self.killed = True

    def close(self) -> None:
        os.close(self._stat)


def test_ourselves() -> None:
    life = Life(os.getpid())
    assert (life.ended(), life.stopped(), life.over()) == (False, False, False)
    life.close()


def test_nobody() -> None:
    with pytest.raises(OSError, match="No such process"):
        Life(1 << 29)  # above the largest number there can be


@pytest.mark.parametrize(
    ("stat", "stopped"),
    [("7 (psql) S 1", False), ("7 (psql) T 1", True), ("7 (psql) t 1", True), ("7 (a) T (b) R 1", False)],
)
def test_stopped(tmp_path: Path, stat: str, stopped: bool) -> None:
    path = tmp_path / "stat"
    path.write_text(f"{stat} 1 1 0")
    life = Standin(path)
    assert life.stopped() is stopped
    life.close()


def test_stopped_for_a_while_and_for_good(tmp_path: Path) -> None:
    """Whoever is stopped for a moment only, by a debugger for one, is not given up."""
    path = tmp_path / "stat"
    path.write_text("7 (psql) T 1")
    started, life = Started(), Standin(path)
    started._lives.append(life)
    assert [started.beat() for _ in range(STOPPED_BEATS)] == [False] * (STOPPED_BEATS - 1) + [True]
    path.write_text("7 (psql) S 1")
    assert not started.beat()
    path.write_text("7 (psql) T 1")
    assert not started.beat()
    started.end()
    assert life.killed
    assert not started.beat()
