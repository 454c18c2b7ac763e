"""Hazards: what on this machine could make a hold fail or hang, found before anything is touched.

Reads only, starts nothing, asks no filesystem that could be frozen or hang; some ten milliseconds.
What cannot be read (without root, or in another namespace) is not found and not claimed absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from app.errors import HostUnfit
from app.host.hazards import logs, ours, processes, storage
from app.host.hazards.hazard import FATAL, IGNORE, KINDS, SEVERITIES, WARNING, Hazard, changeable, severity_of
from app.host.hazards.scene import Scene

__all__ = [
    "FATAL", "IGNORE", "KINDS", "SEVERITIES", "WARNING", "Hazard", "Scene", "changeable", "demand", "find",
]  # fmt: skip

_LOOKS = (ours.look, processes.look, storage.look, logs.look)


def find(scene: Scene, chosen: Mapping[str, str]) -> list[Hazard]:
    """Every hazard of the scene that is not ignored, fatal ones first. ``chosen``: severities by name."""
    found = []
    for look in _LOOKS:
        for hazard in look(scene):
            severity = severity_of(hazard, chosen)
            if severity != IGNORE:
                found.append(replace(hazard, severity=severity))
    return sorted(found, key=lambda hazard: hazard.severity != FATAL)


def demand(found: Sequence[Hazard]) -> None:
    """Raise HostUnfit that names every fatal hazard, if there is one."""
    fatal = [hazard for hazard in found if hazard.severity == FATAL]
    if len(fatal) == 1:
        raise HostUnfit(str(fatal[0]), fatal[0].cure)
    if fatal:
        raise HostUnfit(
            f"{len(fatal)} hazards:\n"
            + "\n".join(f"  {hazard}\n    cure: {hazard.cure}" for hazard in fatal),
            "app doctor says what is at stake",
        )
