"""Settings: what a policy lets others set, and the values in force."""

from __future__ import annotations

import os.path
import re
import unicodedata
import warnings
from collections.abc import Mapping
from typing import Any

from app.policy.findings import Findings
from app.policy.locate import Key, Node
from app.policy.wording import nearest, show
from app.template import Value

TYPES = ("string", "integer", "boolean", "path", "paths", "strings")

RESERVED = frozenset(
    {"data", "deadline", "deadman_milliseconds", "deadman_seconds", "mark", "mounts", "name", "scratch"}
)
"""Placeholders of the run: a setting of the same name could not be told from them."""

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes, as in linux/limits.h (NAME_MAX; PATH_MAX counts a NUL at the end)."""

SET = "value"
"""Where merging keeps a value that was set, inside the setting's declaration."""

_KINDS: Mapping[str, str] = {
    "string": "a string",
    "integer": "an integer",
    "boolean": "true or false",
    "path": "a full path",
    "paths": "a list of full paths",
    "strings": "a list of strings",
}
_STAND_INS: Mapping[str, Value] = {
    "string": "x",
    "integer": 1,
    "boolean": False,
    "path": "/x",
    "paths": ("/x",),
    "strings": ("x",),
}


def resolve_settings(
    declared: Mapping[str, Any], root: Node, own: Node, findings: Findings
) -> tuple[dict[str, Value], frozenset[str]]:
    """The value of every setting, and the names of those whose value is missing or wrong.

    The latter have a stand-in of the right type, so that the rest of the policy can be checked.
    ``own`` are the key positions of the operator's file alone: that is where a value is missing.
    """
    values: dict[str, Value] = {}
    wrong: set[str] = set()
    names = [name for name, entry in declared.items() if isinstance(entry, dict) and "type" in entry]
    listing = ", ".join(f"{name} ({declared[name]['type']})" for name in sorted(names)) or "none"
    for name, entry in declared.items():
        path: tuple[Key, ...] = ("settings", name)
        if not isinstance(entry, dict):
            findings.add(
                root, path, "is no setting of this policy", f"{_near(name, names)}declared: {listing}"
            )
            continue
        if "type" not in entry:
            findings.add(
                root, path, "declares a setting without a type", f"type is one of {', '.join(TYPES)}"
            )
            continue
        if not _check_declaration(name, entry, root, findings):
            wrong.add(name)
            values[name] = _STAND_INS[entry["type"]]
            continue
        found = entry.get(SET, entry.get("default"))
        if found is None:
            help_text = f"{name}: {_KINDS[entry['type']]}"
            if entry.get("help"):
                help_text += f", {entry['help']}"
            findings.add(
                own,
                ("settings",),
                f"the setting {name} has no value and no default",
                f"set it in [settings]. {help_text}. Declared: {listing}",
            )
            wrong.add(name)
        else:
            where = path if SET in entry else (*path, "default")
            if problem := _problem(entry, found):
                what, hint = problem
                more = f" ({entry['help']})" if entry.get("help") else ""
                findings.add(root, where, what, f"{hint}{more}. Declared: {listing}")
                wrong.add(name)
        if name in wrong or found is None:
            values[name] = _STAND_INS[entry["type"]]
        else:
            values[name] = tuple(found) if isinstance(found, list) else found
    return values, frozenset(wrong)


def _near(name: str, names: list[str]) -> str:
    hint = nearest(name, names)
    return f"{hint} " if hint.startswith("did") else ""


def _check_declaration(name: str, entry: Mapping[str, Any], root: Node, findings: Findings) -> bool:
    path: tuple[Key, ...] = ("settings", name)
    before = len(findings)
    kind = entry["type"]
    if name in RESERVED:
        findings.add(
            root, path, "is a placeholder of the run", f"not usable as a name: {', '.join(sorted(RESERVED))}"
        )
    if entry.get("secret") and kind != "path":
        findings.add(
            root,
            (*path, "secret"),
            "a secret setting must be of type path",
            "it names a file that holds the secret: the secret itself never enters a plan",
        )
    for key, kinds in (("minimum", ("integer",)), ("maximum", ("integer",)), ("pattern", _TEXTUAL)):
        if key in entry and kind not in kinds:
            findings.add(
                root, (*path, key), f"has no meaning for type {kind}", f"for type {' or '.join(kinds)}"
            )
    if "pattern" in entry:
        try:
            _compiled(entry["pattern"])
        except (re.error, OverflowError, RecursionError) as error:
            findings.add(root, (*path, "pattern"), f"is no regular expression: {error}")
    return len(findings) == before


_TEXTUAL = ("string", "path", "paths", "strings")


def _problem(entry: Mapping[str, Any], value: Any) -> tuple[str, str] | None:
    """What is wrong with a value, and what would be right; None if it is right."""
    kind = entry["type"]
    wanted = f"must be {_KINDS[kind]}"
    if kind in ("paths", "strings"):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            return f"{show(value)} is not {_KINDS[kind]}", wanted
        found = [_text_problem(entry, item, kind == "paths") for item in value]
        return next((problem for problem in found if problem), None)
    if kind == "integer":
        if type(value) is not int:
            return f"{show(value)} is not an integer", wanted
        low, high = entry.get("minimum"), entry.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            return f"{value} is out of range", f"must be {_range(low, high)}"
    elif kind == "boolean":
        if not isinstance(value, bool):
            return f"{show(value)} is not true or false", wanted
    elif not isinstance(value, str):
        return f"{show(value)} is not {_KINDS[kind]}", wanted
    else:
        problem = _text_problem(entry, value, kind == "path")
        if problem:
            return problem
    if "choices" in entry and not any(type(value) is type(one) and value == one for one in entry["choices"]):
        return f"{show(value)} is none of the choices", f"choose {', '.join(map(show, entry['choices']))}"
    return None


def _range(low: int | None, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"{low} to {high}"


def _text_problem(entry: Mapping[str, Any], text: str, is_path: bool) -> tuple[str, str] | None:
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        return (
            f"{show(text)} holds a control character or a line break",
            "settings are one line of plain text",
        )
    if is_path and (problem := path_problem(text)):
        return problem
    pattern = entry.get("pattern")
    if pattern is not None and not _compiled(pattern).fullmatch(text):
        return f"{show(text)} does not match {show(pattern)}", f"must match {show(pattern)}"
    return None


def _compiled(pattern: str) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a set that may change its meaning in a later Python
        return re.compile(pattern)


def path_problem(text: str) -> tuple[str, str] | None:
    """What is wrong with a path, and what would be right; None if any filesystem could have it."""
    if not normal_path(text):
        return f"{show(text)} is not a full, normal path", "it begins with /, and has no //, . or .. in it"
    encoded = text.encode("utf-8", "surrogatepass")
    if max(map(len, encoded.split(b"/"))) > LONGEST_NAME:
        return (
            f"{show(text)} has too long a name in it",
            f"between two / there are {LONGEST_NAME} bytes at most",
        )
    if len(encoded) > LONGEST_PATH:
        return f"{show(text)} is too long", f"a path has {LONGEST_PATH} bytes at most"
    return None


def normal_path(text: str) -> bool:
    """Whether ``text`` is absolute and in its shortest form."""
    return text.startswith("/") and not text.startswith("//") and os.path.normpath(text) == text
