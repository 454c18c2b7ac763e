"""Policies: what operators write. Loads, inherits, checks; compiling is another's work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.policy.findings import Findings
from app.policy.inherit import check_level, merge, open_chain
from app.policy.locate import Key, Node
from app.policy.settings import resolve_settings
from app.policy.source import Read, read_file, shipped_folder, shipped_names
from app.policy.validation import check_document
from app.template import Value

_PLACED = frozenset({("freeze", "mounts"), ("freeze", "skip"), ("snapshot", "manifest")})
"""Lists whose elements are looked at again later, each at its place: a wrong one leaves None there."""

__all__ = ["Policy", "gather_policies", "load_policies", "shipped_folder", "shipped_names"]


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy with all that it extends merged into it.

    ``data`` is that merged document and ``root`` the position of its keys. ``lineage`` is its own
    name and the names of what it extends. ``settings`` are the values in force; those in
    ``unsettled`` are stand-ins for a missing or wrong value. ``broken`` are the key paths whose
    value was wrong and was left out.
    """

    file: str
    name: str
    lineage: tuple[str, ...]
    data: Mapping[str, Any]
    root: Node = field(compare=False)
    settings: Mapping[str, Value] = field(default_factory=dict)
    unsettled: frozenset[str] = frozenset()
    broken: frozenset[tuple[Key, ...]] = frozenset()

    def damaged(self, *path: Key) -> bool:
        """Whether something at or below ``path`` was left out, so that what is missing there says nothing."""
        return any(wrong[: len(path)] == path for wrong in self.broken)


def load_policies(paths: Sequence[str], read: Read = read_file) -> list[Policy]:
    """Read policies: files, or shipped policies by their bare names.

    Raises PolicyInvalid with every problem of every file at once.
    """
    findings = Findings()
    policies = gather_policies(paths, findings, read)
    findings.check()
    return policies


def gather_policies(paths: Sequence[str], findings: Findings, read: Read = read_file) -> list[Policy]:
    """Like ``load_policies``, but problems go to ``findings`` and what is usable is returned."""
    loaded = [_load(path, findings, read) for path in paths]
    return [policy for policy in loaded if policy is not None]


def _load(path: str, findings: Findings, read: Read) -> Policy | None:
    before = len(findings)
    chain = open_chain(path, read, findings)
    if not chain:
        return None
    whole = len(findings) == before
    broken: set[tuple[Key, ...]] = set()
    # A wrong name still names: others may say that they come after it.
    lineage = tuple(str(document.data.get("name") or f"({document.file})") for document in chain)
    for document in chain:
        for wrong in check_document(document.data, document.root, findings):
            if wrong:
                broken.add(wrong)
                _drop(document.data, wrong, emptied=wrong[:-1] in _PLACED)
    check_level(chain, findings)
    data, root = merge(chain)
    if not whole:
        # A part of the policy is missing: what it lacks says nothing about what it would be.
        return None
    settings, unsettled = resolve_settings(data.get("settings", {}), root, chain[0].root, findings)
    return Policy(chain[0].file, lineage[0], lineage, data, root, settings, unsettled, frozenset(broken))


def _drop(data: Any, path: tuple[Key, ...], *, emptied: bool) -> None:
    """Take a wrong value out, with the innermost table's key that leads to it; or leave its place empty."""
    holder, last = None, None
    for key in path:
        if emptied and isinstance(data, list) and isinstance(key, int):
            data[key] = None
            return
        if isinstance(data, dict):
            holder, last = data, key
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            break
    if holder is not None:
        holder.pop(last, None)
