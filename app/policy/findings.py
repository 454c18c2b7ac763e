"""Collects every problem of every policy, so that they are reported at once."""

from __future__ import annotations

from app.errors import PolicyInvalid, Problem
from app.policy.locate import Key, Node
from app.policy.wording import dotted


class Findings:
    """Problems found so far, in no order; each is kept once."""

    def __init__(self) -> None:
        self._problems: dict[Problem, None] = {}

    def add(self, root: Node, path: tuple[Key, ...], message: str, hint: str = "") -> None:
        """Note a problem at ``path`` of the (merged) policy whose key positions are ``root``."""
        node = root.find(path)
        self.put(Problem(node.file, node.line, dotted(path), message, hint))

    def put(self, problem: Problem) -> None:
        """Note a problem."""
        self._problems[problem] = None

    def __len__(self) -> int:
        return len(self._problems)

    def check(self) -> None:
        """Raise PolicyInvalid if there is anything to report, in the order of file and line."""
        if self._problems:
            raise PolicyInvalid(sorted(self._problems, key=lambda p: (p.file, p.line or 0, p.key, p.message)))
