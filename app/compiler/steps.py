"""From the steps of a recipe to the steps of the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.compiler.patterns import count_groups
from app.compiler.resolve import Resolver
from app.plan import OUTCOME, Step
from app.policy import Policy
from app.policy.findings import Findings
from app.policy.locate import Key
from app.policy.schema import step_schema
from app.policy.validation import check_part
from app.policy.wording import nearest
from app.template import TemplateError, fill, mentioned

COMMON = ("mechanism", "expect", "save", "unchanged", "proof", "settings", "when", "within", "pause")

PAUSE = 0.2
"""Seconds between two tries of a step with ``within``, where it says nothing else."""


def build_steps(
    entries: Sequence[Any], path: tuple[Key, ...], resolver: Resolver, saved: frozenset[str]
) -> tuple[Step, ...]:
    """The steps of one list at ``path``; ``saved`` are the names that earlier steps saved."""
    steps: list[Step] = []
    for index, entry in enumerate(entries):
        if "mechanism" in entry:  # without one the schema has said so
            where = (*path, index)
            known = saved | saved_names(steps)
            conditions = entry.get("settings", {})
            applies = settings_apply(conditions, (*where, "settings"), resolver.policy, resolver.findings)
            if not applies:
                # What it needs may be saved by steps that are left out like itself.
                known |= _wanted(entry) - resolver.values.keys()
            step = _step(entry, where, resolver, known)
            if applies:
                steps.append(step)
    return tuple(steps)


def settings_apply(
    conditions: Mapping[str, Any], path: tuple[Key, ...], policy: Policy, findings: Findings
) -> bool:
    """Whether the settings in force are the ones that a recipe or a step at ``path`` is for."""
    applies = True
    for name, wanted in conditions.items():
        if name not in policy.settings:
            findings.add(policy.root, (*path, name), "is no declared setting", nearest(name, policy.settings))
        elif policy.settings[name] != wanted or type(policy.settings[name]) is not type(wanted):
            applies = False
    return applies


def saved_names(steps: Iterable[Step]) -> frozenset[str]:
    """The names under which steps save answers."""
    return frozenset(name.removesuffix(":hex") for step in steps for name in step.save)


def _wanted(entry: Mapping[str, Any]) -> frozenset[str]:
    """The answers that a step may depend on."""
    return mentioned(dict(entry)) | {*entry.get("when", {}), entry.get("unchanged", "")}


def _step(entry: dict[str, Any], path: tuple[Key, ...], resolver: Resolver, saved: frozenset[str]) -> Step:
    policy, findings = resolver.policy, resolver.findings
    name = entry["mechanism"]
    schema = step_schema(name)
    own = {key: value for key, value in entry.items() if key not in COMMON}
    files = (
        policy.data.get(name, {}).get("files", {}).keys()
        | policy.data.get("prove", {}).get(name, {}).get("files", {}).keys()
    )
    filled_later = bool(resolver.keep)
    later = (
        frozenset[str]()
        if filled_later
        else mentioned([own, entry.get("expect")]) & (saved | resolver.secrets)
    )
    secrets = mentioned(own) & resolver.secrets
    resolver = replace(resolver, keep=resolver.keep | later | secrets, files=frozenset(files))
    do = resolver.value(own, schema, path)
    if not policy.unsettled and not policy.damaged(*path):
        check_part(schema, do, policy.root, path, findings)
    expect = resolver.text(entry["expect"], (*path, "expect")) if "expect" in entry else None
    given = entry.get("save", [])
    save = (given,) if isinstance(given, str) else tuple(given)
    groups = _groups(expect, path, resolver)
    if expect is None and len(save) > 1:
        findings.add(
            policy.root,
            (*path, "save"),
            f"{len(save)} names, but there is no expect with groups",
            "one name saves the whole answer",
        )
    if groups is not None and len(save) > 1 and len(save) != groups:
        findings.add(
            policy.root,
            (*path, "save"),
            f"{len(save)} names for {groups} groups of expect",
            "one name for the whole answer, or one for each group",
        )
    unchanged = entry.get("unchanged")
    if unchanged is not None and unchanged not in saved and not policy.broken:
        findings.add(
            policy.root,
            (*path, "unchanged"),
            f"{unchanged} was saved by no earlier step",
            nearest(unchanged, saved),
        )
    taken = {**dict.fromkeys(policy.settings, "setting"), **dict.fromkeys(resolver.secrets, "secret")}
    taken |= dict.fromkeys(files, "private file") | {OUTCOME: "word of the run"}
    if clash := [one for one in saved_names([Step(name, {}, save=save)]) if one in taken]:
        findings.add(
            policy.root, (*path, "save"), f"{clash[0]} is a {taken[clash[0]]}", "choose another name"
        )
    when = {key: value for key, value in entry.get("when", {}).items() if isinstance(value, str)}
    for key, pattern in when.items():
        if key not in saved and not policy.broken:
            findings.add(
                policy.root,
                (*path, "when", key),
                "was saved by no earlier step",
                nearest(key, saved),
            )
        count_groups(pattern, policy, (*path, "when", key), findings)
    within = float(entry.get("within", 0))
    if within and expect is None:
        findings.add(policy.root, (*path, "within"), "needs expect: what would end the asking?")
    return Step(
        name,
        do,
        expect,
        save,
        unchanged,
        entry.get("proof", False),
        when,
        within,
        float(entry.get("pause", PAUSE)) if within else 0.0,
        bool(later),
    )


def _groups(expect: str | None, path: tuple[Key, ...], resolver: Resolver) -> int | None:
    if expect is not None and resolver.keep:
        try:
            expect = fill(expect, dict.fromkeys(resolver.keep, "x"))
        except TemplateError:
            return None  # noted when the text was resolved
    return count_groups(expect, resolver.policy, (*path, "expect"), resolver.findings)
