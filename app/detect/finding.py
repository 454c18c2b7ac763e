"""What was found, and what could not be decided."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from app.detect.sight import Process

Value = str | int | list[str]


@dataclass(slots=True)
class Instance:
    """One server, or one installed and not running.

    ``what`` names it for people; ``policy`` is the shipped policy that serves it ("" if none does) and
    ``settings`` what differs from that policy's defaults; ``unsure`` are sentences: what was guessed, and
    what only the operator can know. ``name`` becomes the policy's.
    """

    name: str
    what: str
    policy: str
    settings: dict[str, Value] = field(default_factory=dict)
    evidence: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    running: bool = True


@dataclass(slots=True)
class Found:
    """All that was found.

    ``undecided``: sentences on what has no policy here; ``blind``: what was not seen.
    """

    instances: list[Instance] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)


def named(*words: object) -> str:
    """A policy's name out of words that somebody else chose."""
    text = re.sub(r"[^a-z0-9]+", "-", "-".join(str(w) for w in words).lower()).strip("-")
    return text[:48].strip("-") or "server"


def give_names(instances: list[Instance]) -> None:
    """Make every name the only one of its kind."""
    taken: set[str] = set()
    for instance in instances:
        name, number = instance.name, 2
        while name in taken:
            name, number = f"{instance.name}-{number}", number + 1
        instance.name = name
        taken.add(name)


def writable(value: Value) -> bool:
    """Whether a value can stand in a policy: one line of plain text."""
    parts = value if isinstance(value, list) else [value]
    return all(isinstance(p, int) or (p.isprintable() and _utf8(p)) for p in parts)


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def contained(process: Process, title: str, found: Found) -> bool:
    """Whether a server runs in a container; then it is told how its policy reaches it."""
    if not process.container:
        return False
    engine, _, name = process.container.partition(" ")
    program = {"docker": "docker", "libpod": "podman"}.get(engine, "")
    words = f'through = ["{program}", "exec", "--interactive", "{name}"]'
    way = f": extend its policy, and say {words} in [session]"
    found.undecided.append(
        f"{title} (process {process.pid}) runs in {process.container}"
        + (way if program and name else ": its client must run in there, too")
    )
    return True
