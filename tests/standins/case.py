"""One way to use one policy on a stand-in, and what must make it fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.standins.ground import Standin


@dataclass(frozen=True, slots=True)
class Wrong:
    """A server that is not as the policy needs it.

    ``before`` is done before the cycle, ``during`` while it is held; ``reason``: what the report says.
    ``left``: what the state is afterwards, where it is not as if nothing had been done.
    """

    name: str
    reason: str
    before: Callable[[Standin], None] | None = None
    during: Callable[[Standin], None] | None = None
    left: Any = None


@dataclass(frozen=True, slots=True)
class Case:
    """One way to use one policy.

    ``state``: what of the server shows the hold; ``idle`` and ``held``: its values. ``still``: whether its
    writes stand still. ``quiesces``: matches the statement that begins the hold; ``undone``: the one that
    ends it. ``confirmed``: whether it is told that a snapshot was taken, so that one is. ``client``: what
    the command line of the client says, where it is not the process that we start.
    """

    name: str
    product: str
    settings: Callable[[Standin], str]
    state: str = ""
    idle: Any = None
    held: Any = None
    still: bool = False
    level: str = "application"
    quiesces: str = ""
    undone: str = ""
    session: bool = True
    wrong: tuple[Wrong, ...] = ()
    saved: tuple[str, ...] = ()
    confirmed: bool = False
    client: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def policy(self) -> str:
        return self.name.partition(" ")[0]
