"""Regular expressions of a policy: whether they are any, and how many groups they have."""

from __future__ import annotations

import re
import warnings

from app.policy import Policy
from app.policy.findings import Findings
from app.policy.locate import Key


def count_groups(text: object, policy: Policy, path: tuple[Key, ...], findings: Findings) -> int | None:
    """The number of groups of a regular expression, or None (and a finding) if it is none."""
    if not isinstance(text, str):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a set that may change its meaning in a later Python
            return re.compile(text, re.MULTILINE).groups
    except (re.error, OverflowError, RecursionError) as error:
        findings.add(policy.root, path, f"is no regular expression: {error}", "Python's syntax (module re)")
        return None
