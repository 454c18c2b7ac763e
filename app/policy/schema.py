"""The JSON Schema of a policy, put together from what mechanisms and providers publish.

A mechanism or a provider is one file: its ``OPTIONS_SCHEMA`` and ``STEP_SCHEMA`` stand here under
its name as soon as the file is there. Conditions are ``if``/``then`` on the name and never
``oneOf``, so that an error names the one thing that is wrong.
"""

from __future__ import annotations

import functools

from app import mechanisms, snapshot
from app.policy.settings import TYPES
from app.policy.vm_schema import framework, freeze, hazards_table
from app.policy.vocabulary import FULL_PATH, Schema, integer, seconds, string, strings, table

NAME = r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$"
SAVE = r"^[a-z_][a-z0-9_]*(?::hex)?$"
PLACEHOLDER = r"^\{[a-z_][a-z0-9_]*\}$"
VERSIONS = r"^(?:>=|<=|==|!=|>|<)[0-9]{1,12}(?: (?:>=|<=|==|!=|>|<)[0-9]{1,12})*$"
_VARIABLE = r"^[^=\x00-\x20]+$"

SOURCES = ("file", "credential", "command")
"""Keys of a table of ``[secrets]``."""


def policy_schema() -> Schema:
    """What one policy file may say (draft 2020-12)."""
    steps = {"type": "array", "items": {"$ref": "#/$defs/step"}}
    tables = {name: _open(_options(name)) for name in mechanisms.names()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A stillframe policy",
        "description": "How one application of a VM is made consistent for a snapshot.",
        "type": "object",
        "required": ["version", "name"],
        "additionalProperties": False,
        "properties": {
            "version": {"type": "integer", "const": 1, "description": "version of this language"},
            "name": string("name of the application, unique on the VM", pattern=NAME),
            "extends": string("a shipped policy by name, or a relative path ending in .toml", minLength=1),
            "summary": string("one line for people"),
            "proven": {
                "enum": ["real server", "stand-in", "untried"],
                "description": "how far the recipe was tried",
            },
            "level": {
                "enum": ["crash", "filesystem", "application"],
                "description": "the highest consistency level that the recipe can give",
            },
            "required": {
                "type": "boolean",
                "description": "false: its failure lowers the level and never fails the backup",
            },
            "after": strings(
                "applications that are quiesced before this one; release is the reverse", pattern=NAME
            ),
            "settings": _settings(),
            "secrets": {
                "type": "object",
                "description": "where each secret is read when a keeper connects: one of its keys",
                "propertyNames": {"pattern": r"^[a-z][a-z0-9_]*$"},
                "additionalProperties": _open(secret_schema()),
            },
            "timing": table(
                "seconds",
                quiesce=seconds("one attempt to quiesce"),
                retries=integer("further attempts, made by us", 0, 100),
                hold=seconds("the dead-man deadline"),
                release=seconds("release"),
            ),
            "freeze": freeze(),
            "snapshot": _snapshot(),
            "failure": table(
                "what a failed script means",
                backup={
                    "enum": ["continue", "fail"],
                    "description": "fall back to a lower level, or fail the backup (continueBackupOnFailure)",
                },
            ),
            "framework": framework(),
            "hazards": hazards_table(),
            **tables,
            "quiesce": {**steps, "description": "steps that bring the application to rest"},
            "verify": {**steps, "description": "steps that check that it still rests"},
            "release": {**steps, "description": "steps that let it go on"},
            "recover": {**steps, "description": "what to run when the hold is lost"},
            "choose": {
                "type": "array",
                "description": "recipes by server version and settings, in place of quiesce, verify, release",
                "items": table(
                    "one recipe",
                    required=["name", "quiesce"],
                    name=string("for people", minLength=1),
                    version=string(
                        'comparisons that must all hold, such as ">=150000 <160000"', pattern=VERSIONS
                    ),
                    settings=_conditions("values that settings must have"),
                    level={
                        "enum": ["crash", "filesystem", "application"],
                        "description": "the level of this recipe, where it gives less than the policy's",
                    },
                    quiesce=steps,
                    verify=steps,
                    release=steps,
                ),
            },
            "role": {
                "enum": ["any", "primary", "standby"],
                "description": "which server of a cluster this is for, by its role at run time",
            },
            "roles": table(
                "how a server's role in its cluster is seen",
                required=["ask", "primary", "standby"],
                ask={"$ref": "#/$defs/step"},
                primary=string("regular expression: a primary's answer"),
                standby=string("regular expression: a standby's answer"),
            ),
            "prove": _prove(tables, steps),
        },
        "$defs": {"step": _step()},
    }


def secret_schema() -> Schema:
    """What a resolved table of ``[secrets]`` must be."""
    return table(
        "where a secret is; exactly one of these",
        file=string("full path of a file that only root can read (mode 600)"),
        credential=string(
            "name of a credential of systemd: $CREDENTIALS_DIRECTORY, then credstore.encrypted and credstore",
            pattern=r"^[A-Za-z0-9_:@-][A-Za-z0-9_.:@-]{0,254}$",
        ),
        command={
            **strings("program that prints it, and its arguments, run as root before the hold"),
            "minItems": 1,
        },
    )


def mechanism_schema(name: str) -> Schema:
    """What the resolved options of a mechanism must be."""
    return _options(name)


def step_schema(name: str) -> Schema:
    """What the resolved own keys of a step must be."""
    return {**_published(mechanisms.load(name).STEP_SCHEMA), "additionalProperties": False}


def provider_schema(name: str) -> Schema:
    """What the resolved options of a provider must be; anything for a name that the schema refuses."""
    if name not in snapshot.names():
        return {"type": "object"}
    return {"type": "object", **_published(snapshot.load(name).OPTIONS_SCHEMA), "additionalProperties": False}


@functools.cache
def _options(name: str) -> Schema:
    return {
        "type": "object",
        **_published(mechanisms.load(name).OPTIONS_SCHEMA),
        "additionalProperties": False,
    }


def _published(schema: object) -> Schema:
    assert isinstance(schema, dict)
    return dict(schema)


def _open(schema: Schema) -> Schema:
    """A schema as a policy file may write it: parts may come from elsewhere, values from settings."""
    out = {key: value for key, value in schema.items() if key != "required"}
    return _loose(out)


def _loose(schema: Schema) -> Schema:
    """Wherever no string is allowed, allow one placeholder that gives the value."""
    out: Schema = dict(schema)
    if "properties" in out:
        out["properties"] = {key: _loose(value) for key, value in out["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = _loose(out[key])
    kind = out.get("type")
    kinds = [kind] if isinstance(kind, str) else list(kind or ())
    if "string" in kinds:
        # What a string with placeholders will be is known, and checked, only when they are replaced.
        for rule in ("pattern", "minLength", "maxLength", "format"):
            out.pop(rule, None)
    elif kinds and "object" not in kinds:
        out["type"] = [*kinds, "string"]
        out["pattern"] = PLACEHOLDER
    return out


def _step() -> Schema:
    common = {
        "mechanism": {"enum": mechanisms.names(), "description": "how the application is reached"},
        "expect": string("regular expression that the answer must match"),
        "save": {
            "type": ["string", "array"],
            "pattern": SAVE,
            "items": {"type": "string", "pattern": SAVE},
            "minItems": 1,
            "uniqueItems": True,
            "description": "names under which the answer, or each group of expect, stands in the report",
        },
        "unchanged": string("a saved name: this answer must equal it", pattern=r"^[a-z_][a-z0-9_]*$"),
        "proof": {"type": "boolean", "description": "success of this step proves that the hold was unbroken"},
        "settings": _conditions("values that settings must have, or the step is left out"),
        "when": {
            "type": "object",
            "propertyNames": {"pattern": r"^[a-z_][a-z0-9_]*$"},
            "additionalProperties": {"type": "string"},
            "description": "saved answers and regular expressions: the step is left out unless all match",
        },
        "within": seconds("ask again until the answer matches expect, for so many seconds"),
        "pause": seconds("seconds between two tries of a step with within; absent: 0.2"),
    }
    branches = []
    for name in mechanisms.names():
        own = _loose(step_schema(name))
        branches.append(
            {
                "if": {"properties": {"mechanism": {"const": name}}, "required": ["mechanism"]},
                "then": {**own, "properties": {**dict.fromkeys(common, True), **own["properties"]}},
            }
        )
    return {"type": "object", "required": ["mechanism"], "properties": common, "allOf": branches}


def _conditions(description: str) -> Schema:
    return {
        "type": "object",
        "additionalProperties": {"type": ["string", "integer", "boolean"]},
        "description": description,
    }


def _snapshot() -> Schema:
    common = {
        "provider": {"enum": snapshot.names(), "description": "name of the provider"},
        "manifest": {
            "type": ["string", "array"],
            "pattern": FULL_PATH,
            "items": {"type": "string", "pattern": FULL_PATH},
            "description": "further files for the manifest, on filesystems that are snapshotted",
        },
    }
    branches = []
    for name in snapshot.names():
        own = _open(provider_schema(name))
        branches.append(
            {
                "if": {"properties": {"provider": {"const": name}}, "required": ["provider"]},
                "then": {**own, "properties": {**dict.fromkeys(common, True), **own.get("properties", {})}},
            }
        )
    return {
        "type": "object",
        "description": "who takes the snapshot in app run, with its own keys",
        "properties": common,
        "allOf": branches,
    }


def _settings() -> Schema:
    scalar = ["string", "integer", "boolean"]
    return {
        "type": "object",
        "description": "values of declared settings; a table declares one",
        "propertyNames": {"pattern": r"^[a-z][a-z0-9_]*$"},
        "additionalProperties": {
            "type": [*scalar, "array", "object"],
            "items": {"type": "string"},
            "additionalProperties": False,
            "properties": {
                "type": {"enum": list(TYPES), "description": "kind of value"},
                "default": {"type": [*scalar, "array"], "items": {"type": "string"}},
                "choices": {"type": "array", "items": {"type": scalar}, "minItems": 1},
                "minimum": {"type": "integer"},
                "maximum": {"type": "integer"},
                "pattern": string("regular expression that the whole value must match"),
                "help": string("one line for people"),
                "secret": {"type": "boolean", "description": "the file named by this path holds a secret"},
            },
        },
    }


def _prove(tables: dict[str, Schema], steps: Schema) -> Schema:
    return table(
        "how to start the application on a restored copy and check it",
        user=string("who owns the processes; empty: whoever owns the data"),
        facts={
            "type": "object",
            "propertyNames": {"pattern": r"^[a-z][a-z0-9_]*$"},
            "additionalProperties": {
                "type": "array",
                "items": {"type": "string"},
                "minItems": 2,
                "maxItems": 2,
            },
            "description": "name = [file below the data folder, regular expression]",
        },
        path=strings("folders in which programs are looked for"),
        remove=strings(
            "lock files that a running server keeps in its data folder", pattern=r"^[A-Za-z0-9_.-]+$"
        ),
        files={
            "type": "object",
            "propertyNames": {"pattern": r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"},
            "additionalProperties": {"type": "string"},
            "description": "files written into the scratch folder",
        },
        start=strings("argv of a server in the foreground"),
        stop_signal={
            "enum": ["HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2"],
            "description": "ends the server",
        },
        start_seconds=seconds("longest start", 86400),
        stop_seconds=seconds("longest end", 86400),
        engine={**steps, "description": "the engine's own checks"},
        check={**steps, "description": "the operator's checks"},
        tables=tables,
    )
