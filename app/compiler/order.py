"""The order of applications: by ``after``, and by name where that leaves a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.policy import Policy
from app.policy.findings import Findings
from app.policy.wording import nearest


def order_policies(policies: Sequence[Policy], findings: Findings, *, complete: bool = True) -> list[Policy]:
    """Policies in quiesce order, each name once. Duplicates, unknown names and circles are findings.

    Not ``complete``: some policy could not be read, and an unknown name may well be that one's.
    """
    by_name: dict[str, Policy] = {}
    for policy in policies:
        if policy.name in by_name:
            other = by_name[policy.name]
            findings.add(
                policy.root,
                ("name",),
                f"{policy.name} is also the name of {other.file}",
                "a name is unique on a VM; give one of them another name"
                if policy.file != other.file
                else "the same policy was given twice",
            )
        else:
            by_name[policy.name] = policy
    waits: dict[str, list[str]] = {}
    for name, policy in by_name.items():
        waits[name] = []
        for index, other_name in enumerate(policy.data.get("after", [])):
            if other_name == name:
                findings.add(policy.root, ("after", index), f"{name} cannot come after itself")
            elif other_name not in by_name:
                if complete:
                    findings.add(
                        policy.root,
                        ("after", index),
                        f"{other_name} is none of the policies that are compiled together",
                        nearest(other_name, by_name.keys() - {name}),
                    )
            else:
                waits[name].append(other_name)
    done: list[str] = []
    pending = set(by_name)
    while pending:
        ready = sorted(name for name in pending if not set(waits[name]) & pending)
        if not ready:
            circle = _circle(waits, pending)
            policy = by_name[circle[0]]
            findings.add(
                policy.root,
                ("after",),
                f"goes round in a circle: {' after '.join(circle)}",
                "remove one of these",
            )
            # Break the circle where it was shown, so that another one is found too.
            waits[circle[0]] = [name for name in waits[circle[0]] if name != circle[1]]
            continue
        done.append(ready[0])
        pending.remove(ready[0])
    return [by_name[name] for name in done]


def _circle(waits: Mapping[str, Sequence[str]], pending: set[str]) -> list[str]:
    name = min(pending)
    walk = [name]
    while True:
        name = min(other for other in waits[name] if other in pending)
        if name in walk:
            circle = walk[walk.index(name) :]
            first = circle.index(min(circle))
            circle = circle[first:] + circle[:first]
            return [*circle, circle[0]]
        walk.append(name)
