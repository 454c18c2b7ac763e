"""From one policy to one application of the plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app import mechanisms
from app.compiler.levels import agree_level
from app.compiler.patterns import count_groups
from app.compiler.prove import build_prove
from app.compiler.resolve import Resolver
from app.compiler.secrets import build_secrets
from app.compiler.steps import build_steps, saved_names, settings_apply
from app.compiler.timing import timing_of
from app.plan import OUTCOME, Application, Options, Role, Step, Variant
from app.policy import Policy
from app.policy.findings import Findings
from app.policy.locate import Key
from app.policy.schema import mechanism_schema
from app.policy.validation import check_part
from app.policy.wording import show

_COMPARISON = re.compile(r"(>=|<=|==|!=|>|<)([0-9]+)")
_RECIPE = ("quiesce", "verify", "release")


def build_application(policy: Policy, findings: Findings) -> Application:
    """The application that a policy describes; what is wrong with it goes to ``findings``.

    After a finding the result serves only to check the rest (order, budget).
    """
    data = policy.data
    placed = _variants(policy, findings)
    variants = tuple(placed.values())
    saved = frozenset().union(*(saved_names((*v.quiesce, *v.verify, *v.release)) for v in variants))
    recover = build_steps(data.get("recover", []), ("recover",), Resolver(policy, findings), saved)
    role = _role(policy, findings)
    options = _options(policy, variants, [*recover, *([role.ask] if role else [])], findings)
    _check_recipe(policy, placed, findings)
    level = agree_level(policy, placed, findings)
    return Application(
        name=policy.name,
        lineage=policy.lineage,
        summary=data.get("summary", ""),
        proven=data.get("proven", "untried"),
        required=data.get("required", True),
        after=tuple(sorted(data.get("after", []))),
        level=level,
        timing=timing_of(policy),
        mechanisms=options,
        variants=variants,
        recover=recover,
        prove=build_prove(policy, findings),
        role=role,
        secrets=build_secrets(policy, findings),
    )


def _variants(policy: Policy, findings: Findings) -> dict[tuple[Key, ...], Variant]:
    """Every recipe that is for these settings, by where it stands in the policy."""
    data, root = policy.data, policy.root
    choose = data.get("choose", [])
    if not choose:
        return {(): _variant("default", "", data, (), policy, findings)}
    for key in _RECIPE:
        if data.get(key):
            findings.add(
                root,
                (key,),
                "stands beside choose, which has its own",
                "put it into choose, or write choose = []",
            )
    kept: dict[tuple[Key, ...], Variant] = {}
    for index, entry in enumerate(choose):
        path: tuple[Key, ...] = ("choose", index)
        variant = _variant(entry.get("name", ""), entry.get("version", ""), entry, path, policy, findings)
        if settings_apply(entry.get("settings", {}), (*path, "settings"), policy, findings):
            kept[path] = variant
    if not kept and not policy.unsettled and not policy.damaged("choose"):
        values = ", ".join(f"{name} = {show(value)}" for name, value in sorted(policy.settings.items()))
        findings.add(
            root, ("choose",), "none of the recipes is for these settings", f"settings in force: {values}"
        )
    return kept


def _variant(
    name: str,
    version: str,
    entry: Mapping[str, Any],
    path: tuple[Key, ...],
    policy: Policy,
    findings: Findings,
) -> Variant:
    resolver = Resolver(policy, findings)
    parts: dict[str, tuple[Step, ...]] = {}
    saved: frozenset[str] = frozenset()
    for key in _RECIPE:
        if key == "release":
            saved |= {OUTCOME}
        parts[key] = build_steps(entry.get(key, []), (*path, key), resolver, saved)
        saved |= saved_names(parts[key])
    versions = tuple((operator, int(number)) for operator, number in _COMPARISON.findall(version))
    return Variant(name, versions, parts["quiesce"], parts["verify"], parts["release"])


def _role(policy: Policy, findings: Findings) -> Role | None:
    """How the server's role is seen, where the policy says how."""
    wanted = policy.data.get("role", "any")
    table = policy.data.get("roles")
    if table is None:
        if wanted != "any" and not policy.damaged("roles"):
            findings.add(
                policy.root,
                ("role",),
                f"is {wanted}, but the policy does not say how to see a server's role",
                "add a table [roles] with ask, primary and standby, or extend a policy that has one",
            )
        return None
    if not {"ask", "primary", "standby"} <= table.keys():
        return None  # the schema has said so, or it was damaged
    resolver = Resolver(policy, findings)
    asks = build_steps([table["ask"]], ("roles", "ask"), resolver, frozenset())
    for name in ("primary", "standby"):
        count_groups(table[name], policy, ("roles", name), findings)
    return Role(wanted, asks[0], table["primary"], table["standby"]) if asks else None


def _options(
    policy: Policy, variants: tuple[Variant, ...], others: Sequence[Step], findings: Findings
) -> dict[str, Options]:
    steps = [*others, *(s for v in variants for s in (*v.quiesce, *v.verify, *v.release))]
    used = {step.mechanism for step in steps}
    tables = {name: policy.data[name] for name in mechanisms.names() if name in policy.data}
    asks = {name for name, table in tables.items() if "version" in table}
    versioned = next((i for i, v in enumerate(policy.data.get("choose", [])) if "version" in v), None)
    if any(variant.versions for variant in variants):
        used |= asks
        if not asks:
            findings.add(
                policy.root,
                ("choose", versioned if versioned is not None else 0, "version"),
                "nothing asks the server for its version",
                "set version in the mechanism's table, such as [session]",
            )
    resolver = Resolver(policy, findings)
    resolved: dict[str, Options] = {}
    for name in sorted({*tables, *used}):
        schema = mechanism_schema(name)
        named = replace(resolver, files=frozenset(tables.get(name, {}).get("files", {})))
        found = named.value(tables.get(name, {}), schema, (name,))
        if name in used:
            resolved[name] = found
            if not policy.unsettled and not policy.damaged(name):
                check_part(schema, found, policy.root, (name,), findings)
        for key in ("failed", "ended"):
            count_groups(found.get(key), policy, (name, key), findings)
        for key in ("identity", "version"):
            if isinstance(found.get(key), dict):
                count_groups(found[key].get("pattern"), policy, (name, key, "pattern"), findings)
    return resolved


def _check_recipe(
    policy: Policy,
    variants: Mapping[tuple[Key, ...], Variant],
    findings: Findings,
) -> None:
    lasting = {s.mechanism for v in variants.values() for s in v.quiesce if outlives(s.mechanism)}
    if lasting and not policy.data.get("recover") and not policy.damaged("recover"):
        findings.add(
            policy.root,
            ("recover",),
            f"is missing: what {' and '.join(sorted(lasting))} quiesces outlives whoever asked for it",
            "say in [[recover]] what to run when the hold is lost",
        )
    for path, variant in variants.items():
        if variant.quiesce and not variant.release and not policy.damaged(*path, "release"):
            findings.add(policy.root, (*path, "release"), "is missing: what is quiesced must be released")


def outlives(mechanism: str) -> bool:
    """Whether what a mechanism quiesces stays so when its client dies."""
    return bool(getattr(mechanisms.load(mechanism), "OUTLIVES", mechanism == "command"))
