"""Small plans and journals for unit tests."""

from __future__ import annotations

from typing import Any

from app.journal import Event
from app.plan import Application, Framework, Freeze, Level, Plan, Snapshot, Step, Timing, Variant

QUIESCE = Step("session", {"send": "BEGIN"})


def application(name: str = "db", **changes: Any) -> Application:
    """An application with one quiesce step."""
    values: dict[str, Any] = {
        "name": name,
        "lineage": (name,),
        "summary": "",
        "proven": "real server",
        "required": True,
        "after": (),
        "level": Level.APPLICATION,
        "timing": Timing(quiesce=30, retries=2, hold=60, release=30),
        "mechanisms": {},
        "variants": (Variant("default", (), (QUIESCE,), (), (Step("session", {"send": "END"}),)),),
        "recover": (),
    }
    return Application(**{**values, **changes})


def plan(*applications: Application, freeze: bool = True, provider: str = "command") -> Plan:
    """A plan of these applications."""
    return Plan(
        applications,
        Freeze(freeze, (), (), 60.0),
        Snapshot(provider, {}),
        Framework(300, 1, True, (), (), 0, 0),
    )


def events(*names: str, **facts: dict[str, Any]) -> list[Event]:
    """A journal: event N at N seconds; ``word:app`` or ``word:/mount`` names whom it is about."""
    made: list[Event] = []
    for number, name in enumerate(names):
        word, _, subject = name.partition(":")
        event: dict[str, Any] = {"t": float(number), "event": word, **facts.get(word, {})}
        if subject.startswith("/"):
            event["mount"] = subject
        elif subject:
            event["app"] = subject
        made.append(event)
    return made
