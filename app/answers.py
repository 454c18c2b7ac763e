"""Saved answers that recovering needs, on disk: a reboot takes the journal, and not what was quiesced."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping

from app import history
from app.document import dump
from app.host import trust
from app.paths import Paths
from app.plan import Application
from app.template import mentioned


def needed(application: Application) -> bool:
    """Whether a step of ``recover`` depends on an answer."""
    return any(step.when or (step.staged and mentioned(step.do)) for step in application.recover)


def keep(paths: Paths, application: str, saved: Mapping[str, str]) -> None:
    """Write them down, whole or not at all, before what they tell of is changed. Raises OSError."""
    os.makedirs(paths.answers, mode=0o700, exist_ok=True)
    temporary = f"{paths.answers}/.{application}.new"
    history.write_private(temporary, dump(dict(saved)))
    os.rename(temporary, f"{paths.answers}/{application}.json")
    folder = os.open(paths.answers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def kept(paths: Paths, application: str) -> dict[str, str]:
    """What was written down; nothing, if nothing was. Raises HostUnfit where others could have written it."""
    path = f"{paths.answers}/{application}.json"
    if not os.path.lexists(path):
        return {}
    saved: dict[str, str] = json.loads(trust.read_trusted(path, mode=0o600))
    return saved


def forget(paths: Paths) -> None:
    """Remove all of them: nothing that was quiesced is left."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(paths.answers):
            os.unlink(f"{paths.answers}/{name}")
