from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from app import mechanisms, snapshot
from app.cli.schema import command
from app.policy.schema import policy_schema

POLICIES = Path(__file__).resolve().parents[3] / "policies"


def test_the_published_schema_is_the_one_in_force() -> None:
    published = (POLICIES / "policy.schema.json").read_text()
    assert published == CliRunner().invoke(command).output, "run: app schema > policies/policy.schema.json"


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(policy_schema())


@pytest.mark.parametrize("file", sorted(POLICIES.glob("*.toml")), ids=lambda path: path.stem)
def test_any_validator_accepts_the_shipped_policies(file: Path) -> None:
    jsonschema.Draft202012Validator(policy_schema()).validate(tomllib.loads(file.read_text()))


def nodes(schema: Any) -> list[dict[str, Any]]:
    found = [schema] if isinstance(schema, dict) else []
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        found += nodes(value)
    return found


def test_messages_stay_clear_and_nothing_unknown_passes() -> None:
    found = nodes(policy_schema())
    assert not [node for node in found if "oneOf" in node or "anyOf" in node]
    for node in found:
        if isinstance(node.get("properties"), dict) and node.get("type") == "object" and "allOf" not in node:
            assert node.get("additionalProperties") is False, node.get("description")


def test_every_mechanism_and_provider_is_in_it() -> None:
    text = json.dumps(policy_schema())
    for name in (*mechanisms.names(), *snapshot.names()):
        assert f'"const": "{name}"' in text
