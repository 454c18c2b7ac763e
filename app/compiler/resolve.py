"""Puts settings into the strings of a policy, with the schema at hand and every error noted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from app import mechanisms
from app.compiler.timing import placeholders
from app.plan import SECRET_OPTIONS
from app.policy import Policy
from app.policy.findings import Findings
from app.policy.locate import Key
from app.policy.vocabulary import Schema
from app.template import PATTERN, STATEMENT, TemplateError, Value, alone, is_sequence, mentioned, substitute

_MARK = "mark"

_TYPED = frozenset({"send", "begin", "identity", "login", "version", "quit", "mark"})
"""Keys of a mechanism whose text is typed into a client: values must be quoted in it."""

_PATTERNS = frozenset({"expect", "failed", "ended", "pattern"})
"""Keys whose text is a regular expression: values must be escaped in it."""

_MARKED = frozenset({"mark", "failed"})
"""Keys in which the run replaces ``{mark}``, and nothing else, by its own secret."""


_NAMED = frozenset({"environment", "files", "headers"})
"""Keys below which the policy chooses names, which mean nothing."""

_SECRET = frozenset({"body", "files", "headers", "login", "stdin"})
"""Keys of steps and of mechanisms' options in which a secret may stand: nobody else ever sees their text."""

_FILED = frozenset({"argv", "environment"})
"""Keys in which a private file may be named."""

_STEPS = frozenset({"ask", "check", "engine", "quiesce", "recover", "release", "verify"})


@dataclass(frozen=True, slots=True)
class Resolver:
    """Resolves parts of one policy.

    ``keep`` are the placeholders that the run fills; with any, results are templates (staged). ``files``
    are the names of a mechanism's private files, which the mechanism itself replaces.
    """

    policy: Policy
    findings: Findings
    keep: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()

    @property
    def secret_tables(self) -> dict[str, Any]:
        """``[secrets]``, as far as it can be used."""
        tables = self.policy.data.get("secrets", {})
        return {name: table for name, table in tables.items() if isinstance(table, dict)}

    @property
    def secrets(self) -> frozenset[str]:
        """The names of the policy's secrets."""
        return frozenset(self.secret_tables)

    @property
    def values(self) -> dict[str, Value]:
        """What placeholders stand for."""
        return {**placeholders(self.policy), **self.policy.settings}

    def value(self, value: Any, schema: Schema, path: tuple[Key, ...]) -> Any:
        """``value`` at ``path`` of the policy with all its strings resolved; ``schema`` is its strict one."""
        if isinstance(value, dict):
            return {
                key: self.value(item, _below(schema, key), (*path, key))
                for key, item in value.items()
                if self._name(key, path)
            }
        if isinstance(value, list):
            out: list[Any] = []
            for index, item in enumerate(value):
                resolved = self.value(item, schema.get("items", {}), (*path, index))
                if isinstance(item, str) and isinstance(resolved, list):
                    out.extend(resolved)
                else:
                    out.append(resolved)
            return out
        if not isinstance(value, str):
            return value
        name = alone(value)
        if name is not None and name not in self._kept(path)[0] and name in self.values:
            found = self.values[name]
            if is_sequence(found):
                staged = self._kept(path)[1]
                return [_doubled(item) if staged else item for item in found]  # type: ignore[union-attr]
            if isinstance(found, int) and not _allows_string(schema):
                return found
        return self.text(value, path)

    def text(self, text: str, path: tuple[Key, ...]) -> str:
        """One string resolved; the rules for it come from the key under which it stands."""
        key = next((part for part in reversed(path) if isinstance(part, str)), "")
        own = _own_key(path)
        if own in _NAMED:
            key = own
        if (found := mentioned(text) & self.secrets) and own not in _SECRET:
            self.findings.add(
                self.policy.root,
                path,
                f"{{{min(found)}}} is a secret, and would be seen here",
                "it may stand in session.login, in files of session and command, in stdin of a command, in "
                "headers of http and in headers and body of its requests, and nowhere else",
            )
            return text
        keep, staged = self._kept(path)
        require: Collection[str] = frozenset()
        if key in _TYPED:
            require = STATEMENT
        elif key in _PATTERNS:
            require = PATTERN
        try:
            if key in _MARKED:
                # The mark is letters, digits and dashes: it needs no quoting anywhere.
                out = substitute(text, self.values, {_MARK}, require=require, exempt={_MARK})
                return _doubled(out) if staged else out
            return substitute(text, self.values, keep, staged=staged, require=require)
        except TemplateError as error:
            self.findings.add(self.policy.root, path, error.message, error.hint)
            return text

    def _kept(self, path: tuple[Key, ...]) -> tuple[frozenset[str], bool]:
        """The placeholders that stay in a text, and whether it is a template then."""
        keep, staged, own = self.keep, bool(self.keep), _own_key(path)
        if self.secrets and own in SECRET_OPTIONS and path[0] in (*mechanisms.names(), "prove"):
            keep, staged = keep | self.secrets, True
        if own in _FILED:
            keep = keep | self.files
        return keep, staged

    def _name(self, key: str, path: tuple[Key, ...]) -> bool:
        if path and path[-1] == "environment" and (not key or "=" in key or not key.isprintable()):
            self.findings.add(
                self.policy.root,
                (*path, key),
                "is no name of an environment variable",
                "without = and blanks",
            )
            return False
        return True


def _own_key(path: tuple[Key, ...]) -> str:
    """The key of a step, or of a mechanism's table, below which ``path`` leads; "" elsewhere."""
    for place, part in enumerate(path[:-2]):
        if part in _STEPS and isinstance(path[place + 1], int):
            return str(path[place + 2])
    rest = path[1:] if path[:1] == ("prove",) else path
    return str(rest[1]) if len(rest) > 1 and rest[0] in mechanisms.names() else ""


def _doubled(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _below(schema: Schema, key: str) -> Schema:
    found = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
    return found if isinstance(found, dict) else {}


def _allows_string(schema: Schema) -> bool:
    kind = schema.get("type", "string")
    return "string" in ([kind] if isinstance(kind, str) else kind)
