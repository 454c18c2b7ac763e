"""What level a recipe gives: what its policy says, and no more than its mechanisms can give and it proves."""

from __future__ import annotations

from collections.abc import Mapping

from app import mechanisms
from app.plan import Level, Variant
from app.policy import Policy
from app.policy.findings import Findings
from app.policy.locate import Key

_PARTS = ("quiesce", "verify", "release")


def agree_level(policy: Policy, variants: Mapping[tuple[Key, ...], Variant], findings: Findings) -> Level:
    """The level of an application; ``variants`` are its recipes, by where they stand in the policy."""
    if not any(variant.quiesce for variant in variants.values()) and "level" not in policy.data:
        return Level.FILESYSTEM
    levels = [_level(policy, path, variant, findings) for path, variant in variants.items()]
    level = min(levels, default=Level.FILESYSTEM)
    if level is Level.APPLICATION and not policy.damaged("level"):
        _check_proof(policy, variants, findings)
    return level


def _level(policy: Policy, path: tuple[Key, ...], variant: Variant, findings: Findings) -> Level:
    """What one recipe says of itself, or its policy of all; otherwise what it can give."""
    entry = policy.data["choose"][path[1]] if path else {}
    ceiling, culprits = _ceiling(variant)
    said = [
        (Level[table["level"].upper()], where)
        for table, where in ((policy.data, ("level",)), (entry, (*path, "level")))
        if "level" in table
    ]
    if not said:
        return ceiling
    level, where = min(said, key=lambda one: one[0])
    if level > ceiling and culprits and not policy.damaged("level"):
        findings.add(
            policy.root,
            where,
            f"is {level.word}, but {culprits} alone gives {ceiling.word} at most",
            f'write level = "{ceiling.word}", or quiesce the application itself too, and prove that',
        )
    return level


def _ceiling(variant: Variant) -> tuple[Level, str]:
    """The most that a recipe can give, and the mechanisms because of which it is not more."""
    proofs = [step for step in (*variant.verify, *variant.release) if step.proof]
    for steps in (variant.quiesce, proofs):
        names = sorted({step.mechanism for step in steps})
        most = max((_gives(name) for name in names), default=Level.APPLICATION)
        if names and most < Level.APPLICATION:
            return most, " and ".join(names)
    return Level.APPLICATION, ""


def _gives(mechanism: str) -> Level:
    level: Level = getattr(mechanisms.load(mechanism), "GIVES", Level.APPLICATION)
    return level


def _check_proof(policy: Policy, variants: Mapping[tuple[Key, ...], Variant], findings: Findings) -> None:
    """Law 2: what calls itself application-consistent quiesces something and proves it."""
    hint = "set level to what the recipe can give: filesystem or crash"
    for path, variant in variants.items():
        if any(policy.damaged(*path, key) for key in _PARTS) or policy.damaged("choose"):
            continue
        if not variant.quiesce:
            findings.add(policy.root, ("level",), "is application, but nothing is quiesced", hint)
        elif not any(step.proof for step in (*variant.verify, *variant.release)):
            findings.add(
                policy.root,
                (*path, "release"),
                "no step of verify or release proves the hold, and level is application",
                f"mark the step whose success proves it with proof = true, or {hint}",
            )
