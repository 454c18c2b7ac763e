"""``service``: systemd units stopped for the hold, and started again if they were active.

What systemd would stop along with a unit (whatever requires it, is bound to it or is part of it) is put
back with it, and what would start it meanwhile (sockets, timers, paths) is stopped too.

Sources: systemctl(1); systemd.unit(5), "Mapping of unit properties to their inverses"; systemd.socket(5),
systemd.timer(5) and systemd.path(5) on what they trigger; systemd.exec(5), $INVOCATION_ID.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.errors import HostUnfit
from app.host.inotify import Arrivals
from app.host.process import Program, account
from app.masking import shorten, shorten_to_end
from app.mechanisms import ConnectionLost, Register, StepFailed, TimedOut, Waiter
from app.mechanisms.command import run
from app.plan import Options, Step

OUTLIVES = True
"""A stopped unit stays stopped, also after a reboot where nothing starts it."""

ACTIONS = ("note", "stop", "verify", "start")

OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["units"],
    "properties": {
        "units": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "description": "units of systemd; .service where a name has no suffix",
        },
        "user": {
            "type": "string",
            "description": "OS user whose own systemd it is (systemctl --user); absent: the system's",
        },
        "environment": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "environment of systemctl; XDG_RUNTIME_DIR says where a user's systemd is",
        },
    },
}

STEP_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["action"],
    "properties": {
        "action": {
            "enum": list(ACTIONS),
            "description": "note what is active, stop that, verify that it stayed so, start it again",
        },
        "was": {"type": "string", "description": "for stop and start: the saved answer of note"},
    },
    "if": {"properties": {"action": {"enum": ["stop", "start"]}}, "required": ["action"]},
    "then": {
        "required": ["was"],
        "properties": {"was": {"description": 'save the answer of note, and write was = "{its_name}"'}},
    },
}

_RUNNING = frozenset({"active", "activating", "maintenance", "refreshing", "reloading"})
"""Values of ActiveState in which a unit is to be stopped and put back; deactivating counts as stopped."""

_AT_REST = frozenset({"failed", "inactive"})

_STOPPED_ALONG = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")

_STARTED_BY = ("TriggeredBy", "UpheldBy")
"""What would start a unit again: it is stopped before it."""

_PROPERTIES = ("Id", "LoadState", "ActiveState", "InvocationID", "ActiveEnterTimestampMonotonic",
    "InactiveExitTimestampMonotonic", "CanStart", "CanStop", "Result",
    "ExecMainStatus", "TasksCurrent", *_STARTED_BY, *_STOPPED_ALONG)  # fmt: skip
"""Those that a release of systemd does not know it leaves out: UpheldBy is of 249, InvocationID of 232."""

_NAME = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_:.\\@-]*\.[a-z]+")
_NOTED = re.compile(rf"({_NAME.pattern}) ([a-z]+) ([0-9a-f]+|-|@\d+)")

_MOST_UNITS = 200
"""Of more than that somebody named a target, and meant something else."""

_UNCOUNTED = 2**64 - 1
"""How older releases say that they do not count."""

_BY_TERM = "143"
"""Exit status of programs, Java's for one, that end by their own handler of SIGTERM: 128 + 15."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """What systemd says of a unit."""

    properties: dict[str, str]

    @property
    def name(self) -> str:
        return self.properties.get("Id", "")

    @property
    def state(self) -> str:
        return self.properties.get("ActiveState", "")

    @property
    def invocation(self) -> str:
        """Which start of the unit this is; "-" if systemd has forgotten, or there was none."""
        known = self.properties.get("InvocationID", "")
        entered = self.properties.get("ActiveEnterTimestampMonotonic", "0")
        return known or (f"@{entered}" if entered != "0" else "-")

    @property
    def tasks(self) -> int:
        """Processes and threads in its control group, as far as systemd counts them."""
        count = self.properties.get("TasksCurrent", "")
        return int(count) if count.isdigit() and int(count) < _UNCOUNTED else 0

    @property
    def trace(self) -> tuple[str, str]:
        """What a start since the last look would have changed."""
        return self.invocation, self.properties.get("InactiveExitTimestampMonotonic", "")

    def others(self, *kinds: str) -> list[str]:
        """Names of units in these relations to it."""
        return [name for kind in kinds for name in self.properties.get(kind, "").split()]


class ServiceConnection:
    """The way to one systemd, by its own program."""

    identity = ""
    version: int | None = None

    def __init__(self, options: Options, waiter: Waiter, register: Register, deadline: float) -> None:
        self._waiter = waiter
        self._register = register
        self._names = [_full_name(name) for name in options["units"]]
        user, environment = options.get("user", ""), dict(options.get("environment", {}))
        folder = "/run"
        if user:
            environment = {"XDG_RUNTIME_DIR": f"/run/user/{account(user).uid}", **environment}
            folder = environment["XDG_RUNTIME_DIR"]
        self._words = ["systemctl", *(["--user"] if user else []), "--no-pager", "--no-ask-password"]
        self._program = Program(tuple(self._words), user, environment)
        self._stopped: dict[str, _Unit] = {}
        self._arrivals: Arrivals | None = None
        # systemd keeps a name there for every unit that runs, since release 235.
        with contextlib.suppress(OSError):
            self._arrivals = Arrivals(f"{folder}/systemd/units")
        try:
            for unit in self._look(self._names, deadline):
                _refuse_unfit(unit)
        except StepFailed as error:
            self.kill()
            raise HostUnfit(
                str(error), "the service mechanism needs systemd, and units that it knows"
            ) from None
        except BaseException:
            self.kill()
            raise

    def perform(self, step: Step, deadline: float) -> str:
        """Do the action; a line for each unit: name, state, which start of it."""
        action = step.do["action"]
        if action == "note":
            return self._note(deadline)
        if action == "stop":
            return self._stop(_noted(step.do["was"]), deadline)
        if action == "start":
            return self._start(_noted(step.do["was"]), deadline)
        return self._verify(deadline)

    def prove(self, deadline: float) -> None:
        """What was stopped is stopped, and was so all the time."""
        if self._stopped:
            self._verify(deadline)

    def lost(self) -> int | None:
        """Nothing is open, so nothing can be lost."""
        return None

    def close(self, deadline: float) -> None:
        """Nothing is open but descriptors."""
        self.kill()

    def kill(self) -> None:
        """Nothing is open but descriptors."""
        if self._arrivals:
            self._arrivals.close()
            self._arrivals = None
        self._program.close()

    def _note(self, deadline: float) -> str:
        """Every unit that a stop would concern; what would start another one comes before it."""
        found: dict[str, _Unit] = {}
        starters: set[str] = set()
        wanted = list(self._names)
        asked: set[str] = set()
        while wanted:
            asked.update(wanted)
            for unit in self._look(wanted, deadline):
                found[unit.name] = unit
                starters.update(unit.others(*_STARTED_BY))
            if len(found) > _MOST_UNITS:
                raise StepFailed(f"a stop would concern more than {_MOST_UNITS} units: name them one by one")
            near = [n for u in found.values() for n in u.others("TriggeredBy", *_STOPPED_ALONG)]
            wanted = [name for name in dict.fromkeys(near) if name not in asked]
        named = {unit.name for unit in self._look(self._names, deadline)}
        concerned = [u for u in found.values() if u.state in _RUNNING or u.name in named]
        for unit in concerned:
            _refuse_unfit(unit)
        self._refuse_upheld(concerned, deadline)
        concerned.sort(key=lambda unit: unit.name not in starters)
        return _told(concerned)

    def _refuse_upheld(self, units: Sequence[_Unit], deadline: float) -> None:
        known = {unit.name for unit in units}
        for unit in units:
            for other in self._look([n for n in unit.others("UpheldBy") if n not in known], deadline):
                if other.state in _RUNNING:
                    raise StepFailed(
                        f"{unit.name} would be started again at once: {other.name} upholds it; name that too"
                    )

    def _stop(self, noted: dict[str, tuple[str, str]], deadline: float) -> str:
        running = [name for name, (state, _) in noted.items() if state in _RUNNING]
        starters = {n for unit in self._look(running, deadline) for n in unit.others(*_STARTED_BY)}
        for wave in ([n for n in running if n in starters], [n for n in running if n not in starters]):
            if wave:
                self._ask(["stop", "--", *wave], deadline)
        if self._arrivals:
            self._arrivals.take()
        units = self._look(list(noted), deadline)
        for unit in units:
            if unit.state not in _AT_REST:
                raise StepFailed(f"{unit.name} was stopped and is {unit.state}")
            result, status = (unit.properties.get(key, "") for key in ("Result", "ExecMainStatus"))
            if (
                unit.name in running
                and unit.state == "failed"
                and (result, status) != ("exit-code", _BY_TERM)
            ):
                raise StepFailed(f"{unit.name} did not end in good order: {result} {status}".rstrip())
            if unit.tasks:
                raise StepFailed(f"{unit.name} left processes behind: {unit.tasks} (see its KillMode)")
        self._stopped = {unit.name: unit for unit in units}
        return _told(units)

    def _verify(self, deadline: float) -> str:
        if not self._stopped:
            raise StepFailed("nothing was stopped here")
        came = self._arrivals.take() if self._arrivals else set()
        units = self._look(list(self._stopped), deadline)
        for unit in units:
            before = self._stopped[unit.name]
            if unit.state not in _AT_REST:
                raise ConnectionLost(f"{unit.name} was started during the hold: it is {unit.state}")
            # A unit that nobody refers to is forgotten once it is stopped, and then was not started either.
            forgotten = unit.invocation == "-" and self._arrivals is not None
            if (
                came is None
                or f"invocation:{unit.name}" in came
                or not (unit.trace == before.trace or forgotten)
            ):
                raise ConnectionLost(f"{unit.name} was started and stopped during the hold")
        return _told(units)

    def _start(self, noted: dict[str, tuple[str, str]], deadline: float) -> str:
        running = [name for name, (state, _) in noted.items() if state in _RUNNING]
        if not running:
            return "nothing was active"
        self._ask(["start", "--", *running], deadline)
        units = self._look(running, deadline)
        for unit in units:
            state, invocation = noted[unit.name]
            # A job that was at work when it was stopped may have come to its end by now.
            done = state == "activating" and unit.state == "inactive"
            if unit.state not in ("active", "reloading") and not done:
                raise StepFailed(f"{unit.name} was started and is {unit.state}")
            if unit.name in self._stopped and unit.invocation == invocation:
                raise StepFailed(f"{unit.name} is still the one that was to be stopped")
        self._stopped = {}
        return _told(units)

    def _look(self, names: Sequence[str], deadline: float) -> list[_Unit]:
        """What systemd says of these units, in that order. Raises StepFailed, Abandoned."""
        if not names:
            return []
        output = self._ask(["show", f"--property={','.join(_PROPERTIES)}", "--", *names], deadline)
        blocks = [block.splitlines() for block in output.strip().split("\n\n")]
        units = [_Unit(dict(line.split("=", 1) for line in block if "=" in line)) for block in blocks]
        if len(units) != len(names) or not all(unit.name for unit in units):
            raise StepFailed(f"systemctl show: unexpected answer: {shorten(output)}")
        return units

    def _ask(self, words: Sequence[str], deadline: float) -> str:
        program = self._program.with_argv((*self._words, *words))
        what = f"systemctl {words[0]} {' '.join(words[2:])}"
        try:
            output, status = run(program, "", self._waiter, self._register, deadline)
        except TimedOut:
            raise TimedOut(f"{what}: not done in the time allowed") from None
        if status != 0:
            raise StepFailed(f"{what}: {shorten_to_end(output) or f'exit status {status}'}")
        return output


def _full_name(name: str) -> str:
    full = name if "." in name else f"{name}.service"
    if not _NAME.fullmatch(full):
        raise HostUnfit(f"{name!r} is no name of a unit of systemd", "such as orders.service")
    return full


def _refuse_unfit(unit: _Unit) -> None:
    """Raise StepFailed for what could not be stopped, or not be started again."""
    loaded = unit.properties.get("LoadState", "")
    if loaded != "loaded":
        raise StepFailed(f"{unit.name} is {loaded}")
    for key, what in (("CanStop", "stopped"), ("CanStart", "started")):
        if unit.properties.get(key) == "no":
            raise StepFailed(f"{unit.name} cannot be {what} by hand ({key}=no)")


def _noted(text: str) -> dict[str, tuple[str, str]]:
    """The answer of ``note``: state and invocation by name. Raises StepFailed."""
    noted: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        match = _NOTED.fullmatch(line.strip())
        if match is None:
            raise StepFailed(f"was: {line[:200]!r} is no line of an answer to note")
        noted[match.group(1)] = (match.group(2), match.group(3))
    return noted


def _told(units: Iterable[_Unit]) -> str:
    return "\n".join(f"{unit.name} {unit.state} {unit.invocation}" for unit in units)


def connect(
    options: Options, steps: Sequence[Step], waiter: Waiter, register: Register, deadline: float
) -> ServiceConnection:
    """See that systemd answers, and knows the units."""
    return ServiceConnection(options, waiter, register, deadline)
