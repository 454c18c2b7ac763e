"""Data folders as a server makes them, made once in a run of the tests and copied after that."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path


@functools.cache
def _place() -> Path:
    place = Path(tempfile.mkdtemp(prefix="stillframe-data-", dir="/var/tmp"))
    place.chmod(0o755)
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(place, ignore_errors=True) if os.getpid() == owner else None)
    return place


def copied(name: str, data: Path, make: Callable[[Path], None]) -> None:
    """Make the folder ``data`` a copy of what ``make`` once made of a folder under that name."""
    template = _place() / name
    if not template.exists():
        make(template)
    subprocess.run(["cp", "--archive", "--sparse=always", str(template), str(data)], check=True)
