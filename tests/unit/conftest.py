"""Unit tests start no process and call no ioctl: whoever tries is told so."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.unit.compiled_images import compile_to


def _forbid(what: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError(f"a unit test called {what}: mark it 'integration' and put it elsewhere")

    return refuse


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to start a process, and every ioctl, raises AssertionError."""
    monkeypatch.setattr(subprocess.Popen, "__init__", _forbid("subprocess.Popen"))
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
        monkeypatch.setattr(os, name, _forbid(f"os.{name}"))
    monkeypatch.setattr(fcntl, "ioctl", _forbid("fcntl.ioctl"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with compiled files in it, all of them in order."""
    place = tmp_path / "image"
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    compile_to(place)
    return place
