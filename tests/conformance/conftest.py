"""What the tests of compiled pairs share."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.pair import Run, Stage


@pytest.fixture
def stage(tmp_path: Path, prefix: Path, run_app: Run, app_command: list[str]) -> Iterator[Stage]:
    place = Stage(tmp_path, prefix, run_app, app_command)
    yield place
    # Whatever a test did: nothing of ours may outlive it.
    end = time.monotonic() + 5
    while place.processes() and time.monotonic() < end:
        time.sleep(0.05)
    left = place.processes()
    for pid in left.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == {}
