"""Placeholders in strings: ``{name}``, ``{name:filter}``, and ``{{`` ``}}`` for literal braces.

One implementation for both stages. Compiling replaces settings (``substitute``); what only the
run knows (``{data}``, ``{mounts}``, ...) is kept and replaced then (``fill``). A *staged* result is
itself a template: braces that come from a value are doubled in it, so that no value can ever
become a placeholder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from app.errors import StillframeError

Value = str | int | bool | Sequence[str]
"""What a placeholder stands for; a sequence only where the placeholder stands alone."""

_TOKEN = re.compile(r"\{\{|\}\}|\{([a-z_][a-z0-9_]*)(?::([a-z]+))?\}|[{}]")
_ALONE = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


class TemplateError(StillframeError):
    """A placeholder that cannot be replaced: unknown, of the wrong kind, or not a placeholder."""


def substitute(
    text: str,
    values: Mapping[str, Value],
    keep: Collection[str] = frozenset(),
    *,
    staged: bool = False,
    require: Collection[str] = frozenset(),
    exempt: Collection[str] = frozenset(),
) -> str:
    """``text`` with every placeholder in ``values`` replaced.

    Those named in ``keep`` are left as they stand. With ``staged`` the result is a template again;
    without it the result is final text, in which only the kept placeholders' own characters may
    look like one. Where ``require`` names filters, a value that is not an integer must pass through
    one of them, unless its name is in ``exempt``. Raises TemplateError.
    """
    out: list[str] = []
    position = kept = 0
    for token in _TOKEN.finditer(text):
        out.append(text[position : token.start()])
        position = token.end()
        whole, name, filtered = token.group(0), token.group(1), token.group(2)
        if whole in ("{{", "}}"):
            out.append(whole if staged else whole[0])
        elif name is None:
            raise TemplateError(
                f"a lone {whole!r} at character {token.start() + 1} of {text!r}",
                "a placeholder is {name}; a literal brace is written twice: {{ or }}",
            )
        elif name in keep:
            _check_filter(name, filtered, None, () if name in exempt else require)
            kept += 1
            out.append(whole)
        elif name in values:
            _check_filter(name, filtered, values[name], () if name in exempt else require)
            plain = _text(name, values[name], filtered)
            out.append(plain.replace("{", "{{").replace("}", "}}") if staged else plain)
        else:
            known = ", ".join(sorted({*values, *keep})) or "none"
            raise TemplateError(f"{whole} is no setting and no placeholder here", f"known here: {known}")
    out.append(text[position:])
    result = "".join(out)
    if keep and not staged and sum(result.count(f"{{{name}}}") for name in keep) != kept:
        raise TemplateError(
            f"{text!r} would hold a placeholder that a value or a doubled brace makes",
            "choose a value without " + " or ".join(f"{{{name}}}" for name in sorted(keep)),
        )
    return result


def alone(text: str) -> str | None:
    """The name, if ``text`` is nothing but one placeholder without a filter."""
    match = _ALONE.fullmatch(text)
    return match.group(1) if match else None


def fill(text: str, values: Mapping[str, Value]) -> str:
    """The second stage: final text from a staged template. Raises TemplateError."""
    return substitute(text, values)


def fill_all(value: Any, values: Mapping[str, Value]) -> Any:
    """``fill`` for every string in a JSON value (not for the keys of its objects).

    A placeholder alone in a list, or alone as a value, whose value is a sequence gives all its
    elements. Raises TemplateError.
    """
    if isinstance(value, str):
        name = alone(value)
        if name is not None and is_sequence(values.get(name)):
            return list(values[name])  # type: ignore[arg-type]  # a sequence, by the line above
        return fill(value, values)
    if isinstance(value, Mapping):
        return {key: fill_all(item, values) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        out: list[Any] = []
        for item in value:
            filled = fill_all(item, values)
            if isinstance(item, str) and isinstance(filled, list):
                out.extend(filled)
            else:
                out.append(filled)
        return out
    return value


def mentioned(value: Any) -> frozenset[str]:
    """The names of all placeholders in the strings of a JSON value (not in the keys of its objects)."""
    if isinstance(value, str):
        return frozenset(name for token in _TOKEN.finditer(value) if (name := token.group(1)))
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return frozenset().union(*map(mentioned, value))
    return frozenset()


def is_sequence(value: object) -> bool:
    """Whether a placeholder's value is a list of strings."""
    return isinstance(value, (list, tuple))


def _check_filter(name: str, filtered: str | None, value: Value | None, require: Collection[str]) -> None:
    if filtered is not None and filtered not in FILTERS:
        raise TemplateError(
            f"{{{name}:{filtered}}}: no such filter", f"filters: {', '.join(sorted(FILTERS))}"
        )
    if require and filtered not in require and (filtered is not None or type(value) is not int):
        ways = " or ".join(f"{{{name}:{one}}}" for one in sorted(require))
        raise TemplateError(
            f"{{{name}}} stands unquoted in text that a program interprets",
            f"write {ways}, without quotes of your own around it",
        )


def _text(name: str, value: Value, filtered: str | None) -> str:
    if is_sequence(value):
        raise TemplateError(
            f"{{{name}}} is a list and must stand alone",
            'as one element of a list ("{' + name + '}") or as the whole value',
        )
    plain = str(value).lower() if isinstance(value, bool) else str(value)
    return plain if filtered is None else FILTERS[filtered](plain)


def _refuse_backslash(text: str, filtered: str) -> None:
    # Servers differ in whether a backslash in quotes escapes what follows it: no answer is safe on all.
    if "\\" in text or any(ord(character) < 32 for character in text):
        raise TemplateError(
            f"{text!r} cannot be quoted safely for :{filtered}",
            "choose a value without backslashes and control characters",
        )


def _sql(text: str) -> str:
    _refuse_backslash(text, "sql")
    return "'" + text.replace("'", "''") + "'"


def _ident(text: str) -> str:
    _refuse_backslash(text, "ident")
    return '"' + text.replace('"', '""') + '"'


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise TemplateError(
            f"{text!r} is not one plain word, as :word demands",
            "choose a value of letters, digits and the characters _ . : / @ % + - ,",
        )
    return text


def _quoted(text: str) -> str:
    plain = "".join(
        c if c.isascii() and c.isalnum() else "".join(f"\\x{b:02x}" for b in c.encode()) for c in text
    )
    return f'"{plain}"'


def _pgpass(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _url(text: str) -> str:
    return "".join(c if c in _UNRESERVED else "".join(f"%{b:02X}" for b in c.encode()) for c in text)


_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986, 2.3

_WORD = re.compile(r"[A-Za-z0-9_.:/@%+,-]+")

FILTERS: Mapping[str, Callable[[str], str]] = {
    "sql": _sql,
    "ident": _ident,
    "word": _word,
    "quoted": _quoted,
    "pgpass": _pgpass,
    "json": _json,
    "url": _url,
    "regex": re.escape,
}
"""``sql``: a literal in single quotes; ``ident``: an identifier in double quotes; ``word``: as it is, and
refused unless it is one plain word; ``quoted``: in double quotes, all but letters and digits as ``\\xNN``
(redis-cli reads that); ``pgpass``: a backslash before every colon and backslash (a password file of
PostgreSQL's); ``json``: a string of JSON with its quotes (also a value in an option file of MySQL's);
``url``: percent-encoded; ``regex``: escaped."""

STATEMENT = frozenset({"sql", "ident", "word", "quoted"})
"""What a string-like value must pass through in a statement typed into a client."""

PATTERN = frozenset({"regex"})
"""What a string-like value must pass through in a regular expression."""
