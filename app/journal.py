"""The journal: what we froze and quiesced, one JSON object a line, on tmpfs.

Every process of a hold appends to it, each event in one write, and each *before* an action that
must be undone and again after it. Everything said about a hold, in the report too, is a function of
its journal: what is not written there was not achieved.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.document import plain
from app.masking import mask_all

Event = Mapping[str, Any]


class Journal:
    """An open journal. ``t`` of an event is CLOCK_MONOTONIC in seconds."""

    def __init__(self, path: str, *, fresh: bool = False) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.descriptor = os.open(path, flags | (os.O_TRUNC if fresh else 0), 0o600)

    def note(self, event: str, **facts: Any) -> None:
        """Append one event, secrets masked. Never raises: a full tmpfs must not keep anything frozen."""
        line = json.dumps(
            {"t": time.monotonic(), "event": event, **mask_all(facts)},
            ensure_ascii=False,
            separators=(",", ":"),
        )
        with contextlib.suppress(OSError):
            os.write(self.descriptor, plain(line).encode() + b"\n")

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


def read(path: str) -> list[Event]:
    """All events in order; a torn last line (power cut, full disk) is left out."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().split("\n")
    except FileNotFoundError:
        return []
    events: list[Event] = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event and "t" in event:
            events.append(event)
    return events


def frozen_mounts(events: Iterable[Event]) -> list[str]:
    """Mount points that we froze, or were about to freeze, and have not thawed; latest first."""
    mounts: dict[str, None] = {}
    for event in events:
        if event["event"] in ("freezing", "frozen"):
            mounts.pop(event["mount"], None)
            mounts[event["mount"]] = None
        elif event["event"] in ("thawed", "not_frozen"):
            mounts.pop(event["mount"], None)
    return list(reversed(mounts))


def quiesced_applications(events: Iterable[Event]) -> list[str]:
    """Applications whose quiesce was begun and that were not released; latest first."""
    names: dict[str, None] = {}
    for event in events:
        if event["event"] == "quiescing":
            names.pop(event["app"], None)
            names[event["app"]] = None
        elif event["event"] in ("released", "undone", "forgotten"):
            names.pop(event["app"], None)
    return list(reversed(names))


def saved_answers(events: Iterable[Event], application: str) -> dict[str, str]:
    """The answers that an application's steps have saved, as far as the journal tells."""
    saved: dict[str, str] = {}
    for event in events:
        if event["event"] == "begin":
            saved = {}
        elif event.get("app") == application and event.get("saved"):
            saved = dict(event["saved"])
    return saved


def beginning(events: Sequence[Event]) -> Event | None:
    """The first event of the newest hold; None where there is none."""
    return next((e for e in reversed(events) if e["event"] == "begin"), None)


def ended(events: Iterable[Event]) -> bool:
    """Whether the hold came to its end, well or badly (True for no journal at all)."""
    last = None
    for event in events:
        if event["event"] in ("begin", "end"):
            last = event["event"]
    return last != "begin"
