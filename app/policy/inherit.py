"""``extends``: the chain of files behind a policy, and how they merge.

Tables merge; lists and scalars replace. A scalar or list of ``[settings]`` over a declaration sets
that setting's value. The tree of key positions merges along, so that an error about an inherited
key names the file in which it stands.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from app.policy.findings import Findings
from app.policy.locate import Key, Node
from app.policy.settings import SET
from app.policy.source import BARE_NAME, Document, Read, open_document, open_shipped, shipped_names
from app.policy.wording import nearest, show

LONGEST_CHAIN = 8
"""Files of one policy. A chain that long is a mistake."""

RECIPE = ("quiesce", "verify", "release", "recover", "choose")

LEVELS = ("crash", "filesystem", "application")
"""Least first."""


def open_chain(path: str, read: Read, findings: Findings) -> list[Document]:
    """The file at ``path`` (or a shipped policy's bare name) and all that it extends, nearest first."""
    document, identity = _open(path, None, read, findings)
    chain: list[Document] = []
    seen: list[str] = []
    while document is not None:
        chain.append(document)
        seen.append(identity)
        target = document.data.get("extends")
        if not isinstance(target, str) or not target:
            break  # absent, or a wrong type that the schema names
        if not _allowed(target, document, findings):
            break
        following = identify(target, document.place)
        if following in seen:
            circle = " -> ".join(d.file for d in chain[seen.index(following) :])
            findings.add(
                document.root,
                ("extends",),
                f"extends itself: {circle} -> {chain[seen.index(following)].file}",
            )
            break
        if len(chain) == LONGEST_CHAIN:
            findings.add(document.root, ("extends",), f"more than {LONGEST_CHAIN} policies extend each other")
            break
        document, identity = _open(target, document, read, findings)
    return chain


def identify(target: str, place: str) -> str:
    """One string for one file, so that a circle is seen however it is written."""
    return target if BARE_NAME.fullmatch(target) else os.path.abspath(os.path.join(place, target))


def merge(chain: Sequence[Document]) -> tuple[dict[str, Any], Node]:
    """All files of a chain as one policy, with the position of each of its keys."""
    base = chain[-1]
    data: dict[str, Any] = dict(base.data)
    root = base.root
    for document in reversed(chain[:-1]):
        changes_recipe = any(key in document.data for key in RECIPE)
        data, root = _merge(data, root, document.data, document.root, ())
        if changes_recipe and "proven" not in document.data:
            # What was proven is another recipe.
            data["proven"] = "untried"
    return data, root


def check_level(chain: Sequence[Document], findings: Findings) -> None:
    """Law 2: what a policy extends knows the highest level that it can give; nobody makes it report more."""
    ceiling: tuple[int, str] | None = None
    for document in reversed(chain):
        level = document.data.get("level")
        if level not in LEVELS:
            continue  # absent, or wrong and named by the schema
        rank = LEVELS.index(level)
        if ceiling is not None and rank > ceiling[0]:
            findings.add(
                document.root,
                ("level",),
                f"is {level}, but {ceiling[1]} can give {LEVELS[ceiling[0]]} at most",
                "leave it out; for a recipe of your own that gives more, write a policy without extends",
            )
        else:
            ceiling = (rank, document.file)


def _allowed(target: str, document: Document, findings: Findings) -> bool:
    if BARE_NAME.fullmatch(target):
        if target in shipped_names():
            return True
        hint = nearest(target, shipped_names())
        findings.add(document.root, ("extends",), f"no shipped policy is named {show(target)}", hint)
        return False
    if target.startswith("/") or not target.endswith(".toml") or "\0" in target:
        findings.add(
            document.root,
            ("extends",),
            f"{show(target)} is neither a shipped policy nor a relative path that ends in .toml",
            f"shipped: {', '.join(shipped_names())}; a file beside this one: ./other.toml",
        )
        return False
    return True


def _open(
    target: str, origin: Document | None, read: Read, findings: Findings
) -> tuple[Document | None, str]:
    place = origin.place if origin else ""
    identity = identify(target, place)
    if BARE_NAME.fullmatch(target) and target in shipped_names():
        return open_shipped(target, findings), identity
    path = os.path.normpath(os.path.join(place, target))
    return open_document(path, read, findings, extended_by=origin), identity


def _merge(
    under: dict[str, Any], under_node: Node, over: dict[str, Any], over_node: Node, path: tuple[Key, ...]
) -> tuple[dict[str, Any], Node]:
    data = dict(under)
    node = Node(over_node.file, over_node.line, dict(under_node.children))
    for key, value in over.items():
        below = data.get(key)
        node_over = over_node.children.get(key, over_node)
        node_under = node.children.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and node_under and path != ("secrets",):
            data[key], node.children[key] = _merge(below, node_under, value, node_over, (*path, key))
        elif path == ("settings",) and isinstance(below, dict) and node_under is not None:
            data[key] = {**below, SET: value}
            children = {**node_under.children, SET: node_over}
            node.children[key] = Node(node_over.file, node_over.line, children)
        else:
            data[key] = value
            node.children[key] = node_over
    return data, node
