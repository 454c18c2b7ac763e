"""From ``[prove]`` to how the plan starts an application on a restored copy."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from app import mechanisms
from app.compiler.patterns import count_groups
from app.compiler.resolve import Resolver
from app.compiler.steps import build_steps, saved_names
from app.plan import Options, Prove, Step
from app.policy import Policy
from app.policy.findings import Findings
from app.policy.schema import mechanism_schema
from app.policy.settings import RESERVED
from app.policy.validation import check_part
from app.template import mentioned

RUN_TIME = frozenset({"data", "scratch"})
"""Placeholders that the run fills, besides the facts of the policy."""

_OF_THE_PLACE = frozenset({"user", "environment", "login", "stdin", "through"})
"""Options of a mechanism that say where the live server is, and so are not taken over for a copy."""


def build_prove(policy: Policy, findings: Findings) -> Prove | None:
    """The proof of a policy, or None if it has none (or is too broken to have one)."""
    table = policy.data.get("prove")
    if table is None or any(map(policy.damaged, ("prove", *mechanisms.names()))):
        return None
    facts = _facts(policy, table.get("facts", {}), findings)
    resolver = Resolver(policy, findings, RUN_TIME | facts.keys())
    engine = build_steps(table.get("engine", []), ("prove", "engine"), resolver, frozenset())
    check = build_steps(table.get("check", []), ("prove", "check"), resolver, saved_names(engine))
    used = {step.mechanism for step in (*engine, *check)}
    tables = {name for name in mechanisms.names() if name in table}
    options = {name: _options(policy, name, resolver, (*engine, *check)) for name in sorted(used | tables)}
    for name in sorted(used):
        if not policy.unsettled:
            check_part(mechanism_schema(name), options[name], policy.root, ("prove", name), findings)
    strings = {"type": "array", "items": {"type": "string"}}
    return Prove(
        user=Resolver(policy, findings).text(table.get("user", ""), ("prove", "user")),
        facts=facts,
        path=tuple(resolver.value(table.get("path", []), strings, ("prove", "path"))),
        remove=tuple(table.get("remove", [])),
        files=resolver.value(table.get("files", {}), {"type": "object"}, ("prove", "files")),
        start=tuple(resolver.value(table.get("start", []), strings, ("prove", "start"))),
        stop_signal=table.get("stop_signal", "TERM"),
        start_seconds=float(table.get("start_seconds", 60)),
        stop_seconds=float(table.get("stop_seconds", 60)),
        mechanisms={name: options[name] for name in sorted(used)},
        engine=engine,
        check=check,
    )


def _facts(policy: Policy, entries: dict[str, Any], findings: Findings) -> dict[str, tuple[str, str]]:
    facts: dict[str, tuple[str, str]] = {}
    for name, (file, pattern) in entries.items():
        if name in RESERVED or name in policy.settings:
            findings.add(
                policy.root,
                ("prove", "facts", name),
                "is already a placeholder",
                "choose another name for the fact",
            )
        if os.path.isabs(file) or os.path.normpath(file) != file or file.startswith(".."):
            findings.add(
                policy.root,
                ("prove", "facts", name),
                f"{file!r} is no path below the data folder",
                "relative, without . and ..",
            )
        count_groups(pattern, policy, ("prove", "facts", name), findings)
        facts[name] = (file, pattern)
    return facts


def _options(policy: Policy, name: str, resolver: Resolver, steps: Sequence[Step]) -> Options:
    schema = mechanism_schema(name)
    live = {k: v for k, v in policy.data.get(name, {}).items() if k not in _OF_THE_PLACE}
    own = policy.data["prove"].get(name, {})
    inherited = {key: value for key, value in live.items() if key not in own}
    resolver = replace(resolver, files=frozenset({**inherited, **own}.get("files", {})))
    options: dict[str, Any] = {
        **resolver.value(inherited, schema, (name,)),
        **resolver.value(own, schema, ("prove", name)),
    }
    if "files" in options:
        # Those of the live server's that nothing names here would need its secrets, and serve nobody.
        mine = [step.do for step in steps if step.mechanism == name]
        named = mentioned([options.get("argv", []), options.get("environment", {}), mine])
        options["files"] = {file: text for file, text in options["files"].items() if file in named}
    return options
