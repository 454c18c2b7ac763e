"""``app init``: a policy to begin with, in which stands what one must decide."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from app.cli.output import emit, json_option
from app.cli.written import comment, create, toml
from app.compiler.timing import DEFAULTS
from app.errors import Misused
from app.policy import shipped_names
from app.policy.findings import Findings
from app.policy.inherit import merge, open_chain
from app.policy.schema import NAME
from app.policy.source import read_file
from app.policy.wording import nearest, printable


@click.command("init")
@click.argument("name", required=False, metavar="NAME")
@click.option(
    "--from", "policy", default="", metavar="POLICY", help="Shipped policy to extend; NAME if absent."
)
@click.option("--out", "path", default="", metavar="FILE", help="Where to write it; NAME.toml if absent.")
@click.option("--list", "listing", is_flag=True, help="Show the shipped policies instead.")
@json_option
def command(name: str | None, policy: str, path: str, listing: bool, as_json: bool) -> None:
    """Write a commented policy with only what one must decide.

    Settings without a default stand first and must be filled in; all others stand below, commented
    out, with their defaults. A file that is there is never overwritten.
    """
    if listing:
        policies = [describe(shipped) for shipped in shipped_names()]
        emit(policies, _table(policies), as_json)
        return
    if not name:
        raise Misused(
            "a NAME is missing", "such as: app init orders --from postgresql; app init --list shows all"
        )
    if not re.fullmatch(NAME, name):
        raise Misused(f"{printable(name)!r} is no name", "lower-case letters, digits and dashes, 64 at most")
    base = policy or name
    if base not in shipped_names():
        raise Misused(
            f"no shipped policy is named {printable(base)!r}", f"{nearest(base, shipped_names())} (--from)"
        )
    path = path or f"{name}.toml"
    create([(path, text(name, base))])
    open_settings = [key for key, entry in _settings(base).items() if "default" not in entry]
    done = f"wrote {printable(path)}"
    following = f"next: fill in {', '.join(open_settings)}" if open_settings else f"next: app validate {path}"
    data = {"file": path, "name": name, "extends": base, "to_fill_in": open_settings}
    emit(data, f"{done}\n{following}", as_json)


def describe(name: str) -> dict[str, Any]:
    """A shipped policy in short."""
    data = _shipped(name)
    return {
        "name": name,
        "summary": data.get("summary", ""),
        "level": data.get("level", ""),
        "proven": data.get("proven", "untried"),
        "settings": sorted(_settings(name)),
    }


def text(name: str, base: str) -> str:
    """The policy to begin with."""
    data = _shipped(base)
    settings = _settings(base)
    head = comment(
        f"{data.get('summary', base)}. Highest level: {data.get('level')}; proven: {data.get('proven')}."
    )
    parts = [head + toml({"version": 1, "name": name, "extends": base})]
    open_ones = {key: entry for key, entry in settings.items() if "default" not in entry}
    if settings:
        body = "".join(_open(key, entry) for key, entry in open_ones.items())
        body += "".join(_closed(key, entry) for key, entry in settings.items() if key not in open_ones)
        parts.append(f"[settings]\n{body}")
    timing = {**DEFAULTS, **data.get("timing", {})}
    parts.append(
        "[timing]                        # seconds\n"
        + "".join(f"# {line}\n" for line in toml(timing).splitlines())
    )
    parts.append(
        "# required = false              # its failure lowers the level and never fails the backup\n"
    )
    # Keys of the top level stand before the first table.
    return parts[0] + parts[-1] + "\n" + "\n".join(parts[1:-1])


def _open(key: str, entry: Mapping[str, Any]) -> str:
    """Commented out, too: app validate then names what is still to be filled in."""
    value = {"integer": "0", "boolean": "false", "paths": "[]", "strings": "[]"}.get(entry["type"], '""')
    return _help(entry, "TO BE FILLED IN: ") + f"# {key} = {value}\n"


def _closed(key: str, entry: Mapping[str, Any]) -> str:
    return _help(entry) + "".join(f"# {line}\n" for line in toml({key: entry["default"]}).splitlines())


def _help(entry: Mapping[str, Any], mark: str = "") -> str:
    choices = f"; one of: {', '.join(map(str, entry['choices']))}" if "choices" in entry else ""
    return "\n" + comment(f"{mark}{entry.get('help', entry['type'])}{choices}")


def _shipped(name: str) -> dict[str, Any]:
    """A shipped policy with all that it extends."""
    findings = Findings()
    chain = open_chain(name, read_file, findings)
    findings.check()
    return merge(chain)[0]


def _settings(name: str) -> dict[str, dict[str, Any]]:
    """Declared settings; a value that the policy itself sets is a default to whoever extends it."""
    declared = {}
    for key, entry in _shipped(name).get("settings", {}).items():
        if isinstance(entry, dict) and "type" in entry:
            value = entry.get("value", entry.get("default"))
            declared[key] = {**entry, "default": value} if value is not None else dict(entry)
    return declared


def _table(policies: list[dict[str, Any]]) -> str:
    width = max(len(p["name"]) for p in policies)
    levels = max(len(p["level"]) for p in policies)
    provens = max(len(p["proven"]) for p in policies)
    return "\n".join(
        f"{p['name']:<{width}}  {p['level']:<{levels}}  {p['proven']:<{provens}}  {p['summary']}"
        for p in policies
    )
