"""What holds for the whole VM: freeze, snapshot, failure and framework, agreed on by all policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.compiler.resolve import Resolver
from app.host import hazards
from app.plan import Freeze, Options, Snapshot
from app.policy import Policy
from app.policy.findings import Findings
from app.policy.locate import Key
from app.policy.schema import provider_schema
from app.policy.settings import path_problem
from app.policy.validation import check_part
from app.policy.wording import show

DEFAULT_FREEZE_SECONDS = 60
"""The extension's own longest freeze."""

DEFAULT_FREEZE_WAIT_SECONDS = 66
"""How long the extension waits for its own freeze to be over."""

SNAPSHOT_PLACEHOLDERS = frozenset({"name", "mounts", "deadline"})
"""What a provider fills during the run, in the options of FILLED."""

FILLED = frozenset({"argv"})
"""Options of providers that are templates of the run; all others are final when compiled."""


@dataclass(frozen=True, slots=True)
class Extension:
    """What the extension is told and the plan does not need. None: not set, the extension's default."""

    app_name: str | None = None
    pre_location: str | None = None
    post_location: str | None = None
    freeze_timeout: int | None = None
    freeze_wait: int | None = None
    mounts_to_skip: tuple[str, ...] = ()
    sequential_snapshot: bool | None = None
    on_app_failure_do_fs_freeze: bool | None = None
    on_app_success_do_fs_freeze: bool | None = None

    @property
    def changes_freeze(self) -> bool:
        """Whether ``vmbackup.conf`` is needed."""
        return bool(self.mounts_to_skip) or any(
            value is not None
            for value in (
                self.freeze_timeout,
                self.freeze_wait,
                self.sequential_snapshot,
                self.on_app_failure_do_fs_freeze,
                self.on_app_success_do_fs_freeze,
            )
        )


class Agreement:
    """The one value that all policies which set a key give it."""

    def __init__(self, policies: Sequence[Policy], findings: Findings) -> None:
        self.policies = policies
        self.findings = findings

    def get(self, table: str, key: str, default: Any = None) -> Any:
        """The value of ``[table] key``; where policies differ, a finding that names both files."""
        found = default
        first: Policy | None = None
        for policy in self.policies:
            value = policy.data.get(table, {}).get(key)
            if value is None:
                continue
            if first is None:
                found, first = value, policy
            elif value != found or type(value) is not type(found):
                other = first.root.find((table, key))
                self.findings.add(
                    policy.root,
                    (table, key),
                    f"is {show(value)} here and {show(found)} in {other.file}:{other.line}",
                    "it holds for the whole VM: set it in one policy, or alike in all",
                )
        return found

    def setter(self, table: str, key: str) -> Policy | None:
        """The first policy that sets ``[table] key``."""
        return next((p for p in self.policies if key in p.data.get(table, {})), None)


def agree_freeze(agreement: Agreement) -> Freeze:
    """``[freeze]`` of all policies; ``skip`` is the union."""
    mounts = agreement.get("freeze", "mounts", "auto")
    given = [path for p in agreement.policies for path in p.data.get("freeze", {}).get("skip", [])]
    skip = tuple(sorted({path for path in given if path is not None}))
    for policy in agreement.policies:
        for key in ("mounts", "skip"):
            paths = policy.data.get("freeze", {}).get(key, [])
            for index, path in enumerate([] if isinstance(paths, str) else paths):
                where: tuple[Key, ...] = ("freeze", key, index)
                if path is None:
                    continue  # refused already
                if problem := path_problem(path):
                    agreement.findings.add(policy.root, where, *problem)
                elif key == "mounts" and path in skip:
                    agreement.findings.add(policy.root, where, f"{show(path)} is also in freeze.skip")
    return Freeze(
        enabled=agreement.get("freeze", "enabled", True),
        mounts=() if isinstance(mounts, str) else tuple(mounts),
        skip=skip,
        timeout=float(agreement.get("freeze", "timeout", DEFAULT_FREEZE_SECONDS)),
    )


def agree_hazards(agreement: Agreement) -> dict[str, str]:
    """``[hazards]`` of all policies: of those that set a severity the strictest holds."""
    found: dict[str, str] = {}
    for policy in agreement.policies:
        for name, severity in policy.data.get("hazards", {}).items():
            if severity in hazards.SEVERITIES:
                found[name] = max(found.get(name, hazards.IGNORE), severity, key=hazards.SEVERITIES.index)
    return found


def agree_snapshot(agreement: Agreement) -> Snapshot:
    """``[snapshot]`` of all policies, its options resolved with each policy's own settings."""
    provider = agreement.get("snapshot", "provider", "azure-backup")
    schema = provider_schema(provider)
    options: dict[str, Any] = {}
    setters: dict[str, Policy] = {}
    for policy in agreement.policies:
        final = Resolver(policy, agreement.findings)
        staged = Resolver(policy, agreement.findings, SNAPSHOT_PLACEHOLDERS)
        own = {k: v for k, v in policy.data.get("snapshot", {}).items() if k not in ("provider", "manifest")}
        for key, given in own.items():
            part = schema.get("properties", {}).get(key, {})
            value = (staged if key in FILLED else final).value(given, part, ("snapshot", key))
            if key in options and options[key] != value:
                other = setters[key].root.find(("snapshot", key))
                agreement.findings.add(
                    policy.root,
                    ("snapshot", key),
                    f"is {show(value)} here and {show(options[key])} in {other.file}:{other.line}",
                    "it holds for the whole VM: set it in one policy, or alike in all",
                )
            options.setdefault(key, value)
            setters.setdefault(key, policy)
    _check_options(agreement, schema, options, setters)
    return Snapshot(provider=provider, options=options, manifests=_manifests(agreement))


def _manifests(agreement: Agreement) -> tuple[str, ...]:
    """Every place that a policy names for the manifest."""
    found: set[str] = set()
    for policy in agreement.policies:
        given = policy.data.get("snapshot", {}).get("manifest", [])
        for index, path in enumerate([given] if isinstance(given, str) else given):
            if path is None:
                continue  # refused already
            if problem := path_problem(path):
                where: tuple[Key, ...] = ("snapshot", "manifest")
                where = where if isinstance(given, str) else (*where, index)
                agreement.findings.add(policy.root, where, *problem)
            else:
                found.add(path)
    return tuple(sorted(found))


def _check_options(
    agreement: Agreement, schema: dict[str, Any], options: Options, setters: dict[str, Policy]
) -> None:
    if any(policy.damaged("snapshot") or policy.unsettled for policy in agreement.policies):
        return
    named = agreement.setter("snapshot", "provider") or next(iter(setters.values()), None)
    if named is None:
        named = agreement.policies[0] if agreement.policies else None
    if named is not None:
        check_part(schema, dict(options), named.root, ("snapshot",), agreement.findings)


def agree_extension(agreement: Agreement, freeze: Freeze) -> Extension:
    """What only the extension reads."""
    locations = {key: agreement.get("framework", key) for key in ("pre_location", "post_location")}
    for key, path in locations.items():
        setter = agreement.setter("framework", key)
        if path is not None and setter is not None and (problem := path_problem(path)):
            agreement.findings.add(setter.root, ("framework", key), *problem)
    return Extension(
        app_name=agreement.get("framework", "app_name"),
        pre_location=locations["pre_location"],
        post_location=locations["post_location"],
        freeze_timeout=agreement.get("freeze", "timeout"),
        freeze_wait=agreement.get("freeze", "wait"),
        mounts_to_skip=freeze.skip,
        sequential_snapshot=agreement.get("framework", "sequential_snapshot"),
        on_app_failure_do_fs_freeze=agreement.get("framework", "on_app_failure_do_fs_freeze"),
        on_app_success_do_fs_freeze=agreement.get("framework", "on_app_success_do_fs_freeze"),
    )
