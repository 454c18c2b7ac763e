"""VMSnapshotScriptPluginConfig.json and the two scripts that it names, by the framework's rules.

Source of rules, ranges and effects: learn.microsoft.com/azure/backup/backup-azure-linux-app-consistent,
and how the public extension was measured to behave (tests/conformance/script_host.py re-creates it).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import HostUnfit
from app.host import trust
from app.verify.finding import PRE_FAILS, Findings, Outcome

CONFIG = "VMSnapshotScriptPluginConfig.json"
BAD_CONFIG = "IncorrectJSONConfigFile"
AGAIN = "write it again: app compile"

SILENT = "the backup goes on, filesystem-consistent, and nothing is reported"
UNREAD = "the backup goes on, filesystem-consistent, whatever continueBackupOnFailure says"


@dataclass(frozen=True, slots=True)
class Config:
    """What the other checks need of the config; defaults are the extension's own."""

    scripts: Mapping[str, str] = field(default_factory=dict)
    timeout: int = 10
    keep_going: bool = True
    freeze: bool = True

    @property
    def on_failure(self) -> str:
        """What the backup is when a script fails or is refused."""
        if not self.freeze:
            return "the backup fails: fsFreezeEnabled is false, so no lower level is left"
        if self.keep_going:
            return "the backup goes on, filesystem-consistent (continueBackupOnFailure is true)"
        return "the backup fails without a snapshot (continueBackupOnFailure is false)"


def check_config(directory: str, found: Findings) -> Config:
    """Check the config below ``directory`` and the scripts that it names."""
    path = f"{directory}/{CONFIG}"
    refused = f"'app pre' refuses: {Config().on_failure}"
    outcome = Outcome("", SILENT, BAD_CONFIG, UNREAD, refused, lenient=0o177)
    descriptor, flaws = trust.examine(path, mode=0o600, single=True, root=found.root)
    try:
        found.flaws(path, flaws, outcome, 0o600)
        if descriptor < 0:
            return Config()
        raw = _parse(descriptor, path, found)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    if raw is None:
        return Config()
    config = _read(raw, path, found)
    for which in ("pre", "post"):
        if which in config.scripts:
            _check_script(which, config, path, found)
    return config


def _parse(descriptor: int, path: str, found: Findings) -> dict[str, Any] | None:
    try:
        raw = json.loads(trust.read_open(descriptor, path).decode("utf-8"))
    except HostUnfit as error:
        found.error(path, error.message, UNREAD, error.hint, BAD_CONFIG)
        return None
    except (ValueError, RecursionError) as error:
        found.error(path, f"cannot be parsed: {error}", UNREAD, AGAIN, BAD_CONFIG)
        return None
    if not isinstance(raw, dict):
        found.error(path, "is no JSON object", UNREAD, AGAIN, BAD_CONFIG)
        return None
    return raw


def _is_int(value: Any, low: int, high: int | None) -> bool:
    # JSON's true is an int to Python, and 2.0 equals 2: the framework takes neither for an integer.
    return type(value) is int and value >= low and (high is None or value <= high)


def _is_text(value: Any) -> bool:
    """A string that can be an argument of a program: no NUL, no half of a character."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_path(value: Any) -> bool:
    return _is_text(value) and str(value).startswith("/")


_NO_RETRY = "nothing: the extension never starts a script again"
_KEYS: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "pluginName": (lambda value: value == "ScriptRunner", '"ScriptRunner"', UNREAD),
    "preScriptLocation": (_is_path, "a full path", UNREAD),
    "postScriptLocation": (_is_path, "a full path", UNREAD),
    "preScriptParams": (_is_strings, "a list of strings", UNREAD),
    "postScriptParams": (_is_strings, "a list of strings", UNREAD),
    "preScriptNoOfRetries": (lambda value: _is_int(value, 0, None), "an integer from 0", _NO_RETRY),
    "postScriptNoOfRetries": (lambda value: _is_int(value, 0, None), "an integer from 0", _NO_RETRY),
    "timeoutInSeconds": (
        lambda value: _is_int(value, 1, 1800),
        "an integer from 1 to 1800",
        "the scripts get another time than they were compiled for",
    ),
    "continueBackupOnFailure": (_is_bool, "true or false", "a failure may fail the backup, or not"),
    "fsFreezeEnabled": (_is_bool, "true or false", "the extension may freeze filesystems, or not"),
    "ScriptsExecutionPollTimeSeconds": (
        lambda value: _is_int(value, 1, 5),
        "an integer from 1 to 5, without a decimal point or quotes",
        "the extension takes 3 instead and says nothing: each script then costs 6 s of polling",
    ),
    "appName": (lambda value: isinstance(value, str), "a string", "nothing: it is for telemetry"),
}
_OPTIONAL = {
    "preScriptParams": "none are passed",
    "postScriptParams": "none are passed",
    "preScriptNoOfRetries": "one attempt",
    "postScriptNoOfRetries": "one attempt",
    "timeoutInSeconds": "the extension takes 10 s for each script",
    "ScriptsExecutionPollTimeSeconds": "the extension takes 3",
    "appName": "",
}


def _read(raw: dict[str, Any], path: str, found: Findings) -> Config:
    good: dict[str, Any] = {}
    for key, (accepts, want, effect) in _KEYS.items():
        if key not in raw:
            if key not in _OPTIONAL:
                found.error(path, f"{key} is missing, want {want}", effect, AGAIN, BAD_CONFIG)
            elif _OPTIONAL[key]:
                found.warn(path, f"{key} is missing", _OPTIONAL[key], AGAIN)
        elif accepts(raw[key]):
            good[key] = raw[key]
        else:
            shown = json.dumps(raw[key])[:80]
            found.error(path, f"{key} is {shown}, want {want}", effect, AGAIN, BAD_CONFIG)
    for key in sorted(set(raw) - set(_KEYS)):
        found.warn(path, f"unknown key {json.dumps(key)[:80]}", "the extension ignores it", AGAIN)
    return Config(
        {
            which: good[f"{which}ScriptLocation"]
            for which in ("pre", "post")
            if f"{which}ScriptLocation" in good
        },
        good.get("timeoutInSeconds", 10),
        good.get("continueBackupOnFailure", True),
        good.get("fsFreezeEnabled", True),
    )


def _check_script(which: str, config: Config, path: str, found: Findings) -> None:
    name = which.capitalize()
    location = config.scripts[which]
    wrong = f"InsufficientPermissionfor{name}-Script"
    outcome = Outcome(
        f"{name}-ScriptNotFound",
        config.on_failure,
        wrong,
        config.on_failure,
        f"'app pre' refuses: {config.on_failure}",
        lenient=0o077,
    )
    descriptor, flaws = trust.examine(location, mode=0o700, single=True, root=found.root)
    if descriptor >= 0:
        os.close(descriptor)
    if any(flaw.kind == trust.PATH for flaw in flaws):
        found.error(
            path, f"{which}ScriptLocation {location!r} is not plain", outcome.effect_refused, AGAIN, PRE_FAILS
        )
        return
    found.flaws(location, flaws, outcome, 0o700)
