"""Mutated policies: the outcome is a plan with its files, or PolicyInvalid, and never another error."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import shlex
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.cli.commands import main
from app.compiler import Compiled, compile_files, compile_paths
from app.errors import PolicyInvalid
from app.plan import Plan
from tests.unit.policy.write import CUSTOM

ROOT = Path(__file__).resolve().parents[3]

OPERATORS = (
    CUSTOM.replace("{name}", "own").replace("{more}", 'after = []\n[freeze]\nskip = ["/mnt/x"]'),
    'version = 1\nname = "db"\nextends = "sqlite"\n[settings]\ndatabases = ["/a", "/b c"]\n',
    """
    version = 1
    name = "orders"
    extends = "postgresql"
    required = false
    [settings]
    database = "orders"
    port = 5433
    mode = "checkpoint"
    [timing]
    quiesce = 20
    retries = 1
    hold = 90.5
    release = 10
    [freeze]
    enabled = true
    mounts = ["/srv"]
    timeout = 50
    wait = 70
    [snapshot]
    provider = "command"
    argv = ["/bin/snap", "{name}", "{mounts}", "{database}"]
    [failure]
    backup = "fail"
    [framework]
    poll_seconds = 2
    timeout_seconds = 600
    pre_params = ["a"]
    post_params = []
    pre_retries = 1
    post_retries = 0
    app_name = "x"
    pre_location = "/opt/pre"
    post_location = "/opt/post"
    sequential_snapshot = true
    on_app_failure_do_fs_freeze = true
    on_app_success_do_fs_freeze = false
    [[prove.check]]
    mechanism = "session"
    send = "SELECT {database:sql} {port};"
    expect = "^{database:regex}"
    save = "x"
    """,
)
SEEDS = [tomllib.loads(p.read_text()) for p in sorted((ROOT / "policies").glob("*.toml"))]
SEEDS += [tomllib.loads(text) for text in OPERATORS]

HOSTILE = (
    "'",
    '"',
    "\n",
    "\r\n",
    "$(touch /tmp/stillframe-pwned)",
    "`touch /tmp/stillframe-pwned`",
    "; touch /tmp/stillframe-pwned #",
    "\\",
    "{",
    "}",
    "{{",
    "{x}",
    "{data}",
    "{mark}",
    "{databases}",
    "{port:sql}",
    "é\u202e\u2028",
    "\u0000",
    "\u001b[31m",
    "%s%n",
    "..",
    "/../x",
    "-rf",
    "",
    "a" * 5000,
    "(a+)+$",
    "((((",
    "[[:x:]]",
    "x{99999999999}",
    "(?i)a(?P<b>x)",
    "postgresql",
    "./p.toml",
    ">=1 <2",
)
_HOSTILE = st.sampled_from(HOSTILE) | st.text(max_size=20)
_SCALAR = st.one_of(
    _HOSTILE,
    st.integers(),
    st.integers(0, 6),
    st.sampled_from([2**63, -(2**63) - 1, 10**400, float("nan"), float("inf"), -0.0, 1e308, 2.0, 0.5]),
    st.booleans(),
    st.dates(),
    st.datetimes(),
    st.times(),
)
_VALUE = st.recursive(
    _SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_HOSTILE, inner, max_size=3),
    max_leaves=4,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    out = [(value, key) for key, _ in items]
    for _, item in items:
        out += places(item)
    return out


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A policy that somebody mistyped, or wrote with bad intent."""
    document: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 3))):
        found = places(document)
        if not found:
            break
        container, key = found[draw(st.integers(0, len(found) - 1))]
        kind = draw(st.sampled_from(["value", "string", "append", "remove", "key", "move", "swap"]))
        value = container[key]
        if kind == "remove":
            del container[key]
        elif kind == "key" and isinstance(container, dict):
            container[draw(_HOSTILE)] = container.pop(key)
        elif kind == "append" and isinstance(value, list):
            value.append(draw(_VALUE))
        elif kind == "append" and isinstance(value, dict):
            value[draw(_HOSTILE)] = draw(_VALUE)
        elif kind == "string" and isinstance(value, str):
            position = draw(st.integers(0, len(value)))
            container[key] = value[:position] + draw(_HOSTILE) + value[position:]
        elif kind in ("move", "swap"):
            other, other_key = found[draw(st.integers(0, len(found) - 1))]
            with contextlib.suppress(KeyError, IndexError):
                container[key] = copy.deepcopy(other[other_key])
        else:
            container[key] = draw(_VALUE)
    return document


def outcome(texts: dict[str, bytes]) -> Compiled | PolicyInvalid:
    """The plan and its files, or the one error there may be."""

    def read(path: str) -> bytes:
        if path in texts:
            return texts[path]
        raise FileNotFoundError(2, "No such file or directory")

    try:
        compiled = compile_paths(list(texts), read=read)
    except PolicyInvalid as error:
        check_problems(error)
        return error
    check(compiled)
    return compiled


def check_problems(error: PolicyInvalid) -> None:
    """What holds for whatever is refused."""
    assert error.problems
    for problem in error.problems:
        assert problem.file
        assert problem.message
        str(problem).encode()


def check(compiled: Compiled) -> None:
    """What holds for whatever compiles."""
    files = {file.path: file.content for file in compile_files(compiled.plan, compiled.extension)}
    text = compiled.plan.to_json()
    assert Plan.from_json(text).to_json() == text
    config = json.loads(files["/etc/azure/VMSnapshotScriptPluginConfig.json"])
    assert 1 <= config["timeoutInSeconds"] <= 1800
    assert 1 <= config["ScriptsExecutionPollTimeSeconds"] <= 5
    for key in ("preScriptLocation", "postScriptLocation"):
        check_script(files[config[key]].decode(), compiled)
    if "/etc/azure/vmbackup.conf" in files:
        lines = files["/etc/azure/vmbackup.conf"].decode().split("\n")
        assert all(line == "[SnapshotThread]" or " = " in line or not line for line in lines)


_PLAIN = compile_paths(["filesystem"])
REFERENCE = [
    file.content.decode() for file in compile_files(_PLAIN.plan, _PLAIN.extension) if file.mode == 0o700
]


def check_script(script: str, compiled: Compiled) -> None:
    """A script differs from any other only in its time limit: nothing of a policy is in it."""
    limit = f"limit={compiled.plan.framework.timeout_seconds}\n"
    assert script.count(limit) == 1
    assert script.replace(limit, "limit=10\n") in REFERENCE


@settings(max_examples=3000, suppress_health_check=list(HealthCheck))
@given(documents())
def test_mutated_structure(document: dict[str, Any]) -> None:
    try:
        text = tomli_w.dumps(document).encode()
    except (UnicodeEncodeError, ValueError):
        return  # what no writer can write
    outcome({"/p/p.toml": text})


@settings(max_examples=1500, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(SEEDS),
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=6) | _HOSTILE),
        min_size=1,
        max_size=4,
    ),
)
def test_mutated_bytes(seed: dict[str, Any], edits: list[tuple[float, int, bytes | str]]) -> None:
    content = tomli_w.dumps(seed).encode()
    for where, remove, insert in edits:
        at = int(where * len(content))
        new = insert.encode("utf-8", "surrogatepass") if isinstance(insert, str) else insert
        content = content[:at] + new + content[at + remove :]
    outcome({"/p/p.toml": content})


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.lists(documents(), min_size=2, max_size=3))
def test_mutated_sets_of_policies(found: list[dict[str, Any]]) -> None:
    texts = {}
    for number, document in enumerate(found):
        try:
            texts[f"/p/{number}.toml"] = tomli_w.dumps(document).encode()
        except (UnicodeEncodeError, ValueError):
            continue
    if texts:
        outcome(texts)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(documents(), st.sampled_from(["validate", "explain", "compile"]))
def test_the_command_exits_with_0_or_3(document: dict[str, Any], name: str) -> None:
    try:
        text = tomli_w.dumps(document).encode()
    except (UnicodeEncodeError, ValueError):
        return
    out, err = io.StringIO(), io.StringIO()
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(text)
        file.flush()
        arguments = ["app", name, file.name]
        arguments += ["--dry-run", "--out", "/nowhere/azure"] if name == "compile" else []
        with (
            mock.patch.object(sys, "argv", arguments),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as left,
        ):
            main()
    assert left.value.code in (0, 3), err.getvalue()
    assert (left.value.code == 3) == err.getvalue().startswith("error: ")
    assert "Traceback" not in err.getvalue()


def strings(value: Any) -> list[tuple[Any, Any]]:
    return [(container, key) for container, key in places(value) if isinstance(container[key], str)]


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_a_hostile_string_at_every_place(number: int) -> None:
    """Each string of each policy replaced by a hostile text, and extended with one."""
    chance = random.Random(number)
    for index in range(len(strings(SEEDS[number]))):
        for extend in (False, True):
            document = copy.deepcopy(SEEDS[number])
            container, key = strings(document)[index]
            text = chance.choice(HOSTILE)
            container[key] = container[key] + text if extend else text
            outcome({"/p/p.toml": tomli_w.dumps(document).encode()})


def test_scripts_quote_the_only_two_strings_they_hold() -> None:
    compiled = compile_paths(["filesystem"])
    binary, directory = '/opt/a\'b $(x);`y` "z"/app', "/etc/é ;$(x)'"
    for file in compile_files(compiled.plan, compiled.extension, binary=binary, directory=directory):
        if file.path.endswith(".sh"):
            script = file.content.decode()
            assert f"app={shlex.quote(binary)}\n" in script
            assert f"config={shlex.quote(directory)}\n" in script
            assert script.count("$(x)") == 2
