"""Holds data against a JSON Schema and says in words what is wrong. The only user of jsonschema."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError

from app.policy.findings import Findings
from app.policy.locate import Key, Node
from app.policy.schema import PLACEHOLDER, policy_schema
from app.policy.vocabulary import Schema
from app.policy.wording import nearest, show


def _is_integer(_: object, value: object) -> bool:
    # JSON Schema calls 2.0 an integer and jsonschema agrees; the extension does not.
    return type(value) is int


def _is_number(_: object, value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


_ATOM = re.compile(r"(\\.|\[(?:\\.|[^\]\\])*\])|\$", re.DOTALL)


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # JSON Schema's $ is ECMA's, the very end. Python's lets a line break stand behind what it anchors.
    return re.compile(_ATOM.sub(lambda found: found[1] or r"\Z", pattern))


def _match(_validator: Any, pattern: str, value: object, _schema: object) -> Iterator[ValidationError]:
    """The keyword ``pattern``, which keys come to by propertyNames too."""
    if isinstance(value, str) and not _compiled(pattern).search(value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


_DRAFT = jsonschema.Draft202012Validator
_STRICT: Any = jsonschema.validators.extend(  # type: ignore[no-untyped-call]  # untyped in the library's stubs
    _DRAFT,
    validators={"pattern": _match},
    type_checker=_DRAFT.TYPE_CHECKER.redefine("integer", _is_integer).redefine("number", _is_number),
)

_KINDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "object": "a table",
    "string": "a string",
}

_PATTERNS = {
    "name": "small letters, digits and dashes, at most 64, such as orders-db",
    "after": "names of policies: small letters, digits and dashes",
    "mounts": '"auto", or a list of full paths',
    "skip": "full paths of mount points, without , ; % # or a line break in them, or a blank at an end: "
    "the extension's list in vmbackup.conf cannot carry those",
    "manifest": "full paths of files",
    "groups": "paths of control groups as in /proc/PID/cgroup, such as system.slice/orders.service, "
    "without . or .. in them",
    "version": 'comparisons with a space between, such as ">=150000 <160000"',
    "save": "small letters, digits and _, perhaps with :hex at the end",
    "mark": "a line with {mark} in it",
}


@functools.cache
def _document_validator() -> Any:
    return _STRICT(policy_schema())


def check_document(data: dict[str, Any], root: Node, findings: Findings) -> list[tuple[Key, ...]]:
    """Check a policy file; returns the key paths that are wrong."""
    return _check(_document_validator(), data, root, (), findings)


def check_part(schema: Schema, data: Any, root: Node, path: tuple[Key, ...], findings: Findings) -> bool:
    """Check resolved data that stands at ``path`` of a merged policy; True if it is right."""
    return not _check(_validator(json.dumps(schema, sort_keys=True)), data, root, path, findings)


@functools.cache
def _validator(schema: str) -> Any:
    return _STRICT(json.loads(schema))


def _check(
    validator: Any, data: Any, root: Node, prefix: tuple[Key, ...], findings: Findings
) -> list[tuple[Key, ...]]:
    wrong: list[tuple[Key, ...]] = []
    for error in validator.iter_errors(data):
        for path, message, hint in _explain(error):
            wrong.append(path)
            findings.add(root, (*prefix, *path), message, hint)
    return wrong


def _explain(error: ValidationError) -> list[tuple[tuple[Key, ...], str, str]]:
    path = tuple(error.absolute_path)
    value: Any = error.instance
    limit: Any = error.validator_value
    schema, rule = error.schema, error.validator
    assert isinstance(schema, dict)
    if rule == "additionalProperties":
        known = set(schema.get("properties", ()))
        unknown = [key for key in value if key not in known]
        return [((*path, key), "unknown key", nearest(key, known)) for key in unknown]
    if rule == "required":
        missing = [key for key in limit if key not in value]
        return [((*path, key), "is missing", _described(schema, key)) for key in missing]
    if "propertyNames" in error.absolute_schema_path:
        return [((*path, value), "is no allowed name", f"a name must match {limit}")]
    hint = "; ".join(part for part in (_range(schema), schema.get("description", "")) if part)
    if rule == "type":
        hint = "; ".join(part for part in (_better(value, schema), hint) if part)
        return [(path, f"is {_a(value)}, not {_wanted(schema)}", hint)]
    if rule in ("enum", "const"):
        choices = limit if rule == "enum" else [limit]
        near = nearest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
        allowed = f"allowed: {', '.join(map(show, choices))}"
        return [
            (
                path,
                f"{show(value)} is not allowed",
                f"{near} {allowed}" if near.startswith("did") else allowed,
            )
        ]
    if rule == "pattern":
        if limit == PLACEHOLDER:
            return [(path, f"is {_a(value)}, not {_wanted(schema)}", hint)]
        last = next((key for key in reversed(path) if isinstance(key, str)), "")
        return [(path, f"{show(value)} is not allowed", _PATTERNS.get(last) or f"must match {limit}")]
    ranges = {
        "minimum": f"is under {limit}",
        "maximum": f"is over {limit}",
        "exclusiveMinimum": f"is not over {limit}",
        "minLength": "is empty",
        "minItems": "has too few elements" if limit != 1 else "is an empty list",
        "maxItems": "has too many elements",
        "uniqueItems": "names something twice",
    }
    what = ranges.get(str(rule), f"breaks the rule {rule}")
    return [(path, f"{show(value)} {what}", hint)]


def _range(schema: Schema) -> str:
    if "maximum" not in schema:
        return ""
    if "exclusiveMinimum" in schema:
        return f"over {schema['exclusiveMinimum']}, at most {schema['maximum']}"
    return f"{schema.get('minimum')} to {schema['maximum']}"


def _better(value: object, schema: Schema) -> str:
    """What the operator probably meant."""
    if schema["type"] == "integer":
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
            return f"write {int(value)}, without a decimal point"
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            return f"write {int(value)}, without quotes"
    return ""


def _described(schema: Schema, key: str) -> str:
    entry = schema.get("properties", {}).get(key)
    return str(entry.get("description", "")) if isinstance(entry, dict) else ""


def _a(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    return f"the list {show(value)}" if isinstance(value, list) else show(value)


def _wanted(schema: Schema) -> str:
    kinds = [schema["type"]] if isinstance(schema["type"], str) else list(schema["type"])
    words = [
        _KINDS[kind] for kind in kinds if not (kind == "string" and schema.get("pattern") == PLACEHOLDER)
    ]
    if len(words) < len(kinds):
        words.append("one placeholder")
    return " or ".join(words)
