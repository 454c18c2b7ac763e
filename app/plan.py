"""The plan: what compiling makes of all policies of a VM. Root's code runs plans, never policies.

A plan is plain frozen data with one JSON form (sorted keys, UTF-8, two spaces of indent, a
newline at the end). It holds no host facts and no secrets.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import HostUnfit

PLAN_VERSION = 1

Options = Mapping[str, Any]
"""Resolved options of a mechanism, a step or a provider: JSON values only."""


class Level(enum.IntEnum):
    """Consistency levels, ordered. ``NONE``: no snapshot at all."""

    NONE = 0
    CRASH = 1
    FILESYSTEM = 2
    APPLICATION = 3

    @property
    def word(self) -> str:
        """The word for people and for JSON: none, crash, filesystem, application."""
        return self.name.lower()


class Outcome(enum.StrEnum):
    """What became of the snapshot, for a server that is told at its release.

    ``HANDED_OFF``: to the extension, which tells nobody; ``NONE``: not taken, or the hold is not proven.
    """

    TAKEN = "taken"
    HANDED_OFF = "handed off"
    NONE = "none"


OUTCOME = "outcome"
"""The name under which a step of ``release`` may depend on it (``when``)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One action of a recipe on one mechanism.

    ``do`` holds the mechanism's own keys (``send`` for session, ``argv`` for command, ``action``
    for sqlite). ``expect`` is a regular expression (re.search, MULTILINE) that the answer must
    match. ``save`` names the answer in the report: one name for the whole answer, or one for each
    capture group of ``expect``; a name that ends in ``:hex`` is decoded from hexadecimal first.
    ``unchanged`` names a saved answer that this one (its capture group, if ``expect`` has one) must
    equal. ``proof``: the step's success proves the hold. ``when``: the step is left out unless each
    saved answer so named matches (re.search) and is there at all. ``within``: seconds for which the
    step is done again, every ``pause`` seconds, until it succeeds; 0: once. ``staged``: the strings of
    ``do`` and ``expect`` are templates (app.template) in which ``{name}`` stands for a saved answer
    or a secret.
    """

    mechanism: str
    do: Options
    expect: str | None = None
    save: tuple[str, ...] = ()
    unchanged: str | None = None
    proof: bool = False
    when: Mapping[str, str] = field(default_factory=dict)
    within: float = 0.0
    pause: float = 0.0
    staged: bool = False


@dataclass(frozen=True, slots=True)
class Role:
    """How to see what a server is in its cluster, and which one the policy is for.

    ``wanted``: any, primary or standby. ``primary`` and ``standby`` are regular expressions for the
    answer to ``ask``.
    """

    wanted: str
    ask: Step
    primary: str
    standby: str


@dataclass(frozen=True, slots=True)
class Variant:
    """The steps for one range of server versions; ``versions`` are (operator, number), all must hold."""

    name: str
    versions: tuple[tuple[str, int], ...]
    quiesce: tuple[Step, ...]
    verify: tuple[Step, ...]
    release: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. ``quiesce``: one attempt; ``retries``: further ones; ``hold``: the dead-man deadline."""

    quiesce: float
    retries: int
    hold: float
    release: float


@dataclass(frozen=True, slots=True)
class Prove:
    """How to start the application on a restored copy and check it.

    ``facts`` maps a name to (file relative to the data folder, regular expression whose match is the
    fact). ``path`` are folders in which programs are looked for. ``remove`` are lock files of the
    server that was snapshotted, removed from the copy first. ``files`` are written into a
    private scratch folder. ``{data}``, ``{scratch}`` and every fact stand as placeholders in all
    strings of ``path``, ``files``, ``start``, ``mechanisms`` and steps (``{{`` is a brace). ``start``
    is the argv of a server in the foreground, empty if none is needed. ``user`` owns the processes;
    empty: whoever owns the data folder.
    """

    user: str
    facts: Mapping[str, tuple[str, str]]
    path: tuple[str, ...]
    remove: tuple[str, ...]
    files: Mapping[str, str]
    start: tuple[str, ...]
    stop_signal: str
    start_seconds: float
    stop_seconds: float
    mechanisms: Mapping[str, Options]
    engine: tuple[Step, ...]
    check: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is read when its keeper connects: one of a file, a credential of systemd, a program."""

    file: str = ""
    credential: str = ""
    command: tuple[str, ...] = ()


SECRET_OPTIONS = frozenset({"files", "headers", "login", "stdin"})
"""Options of mechanisms that are templates (app.template) of an application's secrets, where it has any."""


@dataclass(frozen=True, slots=True)
class Application:
    """One application of the VM, resolved.

    ``level`` is the highest consistency level that its recipe can give. ``mechanisms`` holds the
    options of each mechanism in use (``session``: argv, user, ...), by name.
    """

    name: str
    lineage: tuple[str, ...]
    summary: str
    proven: str
    required: bool
    after: tuple[str, ...]
    level: Level
    timing: Timing
    mechanisms: Mapping[str, Options]
    variants: tuple[Variant, ...]
    recover: tuple[Step, ...]
    prove: Prove | None = None
    role: Role | None = None
    secrets: Mapping[str, Secret] = field(default_factory=dict)

    @property
    def has_steps(self) -> bool:
        """False for a policy that only stands for the freeze."""
        return any(variant.quiesce for variant in self.variants)


@dataclass(frozen=True, slots=True)
class Freeze:
    """``mounts`` empty means "auto". ``timeout``: longest freeze, seconds (the extension's own is 60)."""

    enabled: bool
    mounts: tuple[str, ...]
    skip: tuple[str, ...]
    timeout: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which provider ``app run`` hands off to, with its options (JSON values).

    ``manifests``: further places for the manifest, on the filesystems that are snapshotted.
    """

    provider: str
    options: Options
    manifests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Framework:
    """What the extension is told: ``timeout_seconds`` bounds each script on its own (1 to 1800)."""

    timeout_seconds: int
    poll_seconds: int
    continue_backup_on_failure: bool
    pre_params: tuple[str, ...]
    post_params: tuple[str, ...]
    pre_retries: int
    post_retries: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All applications in quiesce order (release is the reverse), and what surrounds them.

    ``hazards``: severities (fatal, warning, ignore) that differ from the default, by the hazard's name.
    """

    applications: tuple[Application, ...]
    freeze: Freeze
    snapshot: Snapshot
    framework: Framework
    version: int = field(default=PLAN_VERSION)
    hazards: Mapping[str, str] = field(default_factory=dict)

    @property
    def requested(self) -> Level:
        """The level asked for: the least that its applications can give, else what the freeze gives."""
        floor = Level.FILESYSTEM if self.freeze.enabled else Level.CRASH
        return min((a.level for a in self.applications if a.has_steps), default=floor)

    def to_json(self) -> str:
        """The one JSON form of this plan."""
        return json.dumps(_encode(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def digest(self) -> str:
        """sha256 of the JSON form, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @staticmethod
    def from_json(text: str, origin: str = "plan.json") -> Plan:
        """Read a plan back.

        Raises HostUnfit if the text is no plan of this version: plans are written by ``app
        compile``, so a wrong one was damaged or comes from another release.
        """
        try:
            raw = json.loads(text)
            if raw.get("version") != PLAN_VERSION:
                raise ValueError(f"plan version {raw.get('version')!r}, not {PLAN_VERSION}")
            return typing.cast(Plan, _decode(Plan, raw))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise HostUnfit(
                f"{origin}: not a plan that this release can run ({error})",
                "write it again with 'app compile' of the same release",
            ) from error


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Level):
        return value.word
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _decode(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if kind is Level:
        return Level[value.upper()]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        names = {f.name for f in dataclasses.fields(kind)}
        if set(value) != names:
            raise ValueError(f"{kind}: keys differ: {sorted(set(value) ^ names)}")
        return typing.cast(Any, kind)(**{name: _decode(hints[name], value[name]) for name in names})
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _decode(next(a for a in arguments if a is not type(None)), value)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is not a list")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_decode(arguments[0], item) for item in value)
        if len(value) != len(arguments):
            raise ValueError(f"{len(value)} items, not {len(arguments)}")
        return tuple(_decode(a, item) for a, item in zip(arguments, value, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return {key: _decode(arguments[1], item) for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{value!r} is not {kind.__name__}")
    return value
