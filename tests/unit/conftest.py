"""Unit tests start no process and call no ioctl: whoever tries is told so."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from typing import NoReturn

import pytest


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
