"""``cgroup``: control groups whose processes get no processor time during the hold, by the freezer.

Nothing is written out and nothing is told to the application, so a snapshot of it is crash-consistent at
best, and the compiler refuses a policy that says more.

Sources: docs.kernel.org/admin-guide/cgroup-v2.html (cgroup.freeze, cgroup.events) and, for version 1,
docs.kernel.org/admin-guide/cgroup-v1/freezer-subsystem.html.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Sequence

from app.errors import HostUnfit
from app.mechanisms import ConnectionLost, Register, StepFailed, TimedOut, Waiter
from app.plan import Level, Options, Step

OUTLIVES = True
"""A group stays frozen until somebody thaws it, or the machine is started again."""

GIVES = Level.CRASH
"""The highest level that a recipe can give that quiesces by this alone."""

ACTIONS = ("note", "freeze", "verify", "thaw")

_NAME = r"^/?(?!\.{1,2}(?:/|$))[^/\x00-\x1f]+(?:/(?!\.{1,2}(?:/|$))[^/\x00-\x1f]+)*/?$"
"""A path whose parts are neither empty nor ``.`` nor ``..``: a group has one name, which can be compared."""

OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["groups"],
    "properties": {
        "groups": {
            "type": "array",
            "items": {"type": "string", "pattern": _NAME},
            "minItems": 1,
            "description": "control groups by their path, such as system.slice/orders.service",
        },
    },
}

STEP_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["action"],
    "properties": {
        "action": {
            "enum": list(ACTIONS),
            "description": "note what is frozen, freeze, verify that it stayed so, thaw what was not frozen",
        },
        "was": {"type": "string", "description": "for freeze and thaw: the saved answer of note"},
    },
    "if": {"properties": {"action": {"enum": ["freeze", "thaw"]}}, "required": ["action"]},
    "then": {
        "required": ["was"],
        "properties": {"was": {"description": 'save the answer of note, and write was = "{its_name}"'}},
    },
}

LOOK = 0.005
"""Seconds between two looks at a group that is on its way."""

NOTICE = 0.02
"""Seconds after which a change is known for sure: the kernel holds notices back for up to 10 ms
(CGROUP_FILE_NOTIFY_MIN_INTV, kernel/cgroup/cgroup.c)."""

_NOTED = re.compile(r"(\S.*) (frozen|freezing|thawed)")


class _Group:
    """One control group with a freezer. Raises FileNotFoundError, OSError."""

    def __init__(self, name: str) -> None:
        # Who we are is compared by name below, and to the kernel a//b and a/./b are the same group as a/b.
        parts = [part for part in name.split("/") if part not in ("", ".")]
        self.name = "/".join(parts)
        self._control = -1
        self._events: int | None = None
        self._changes: int | None = None
        if not parts or ".." in parts:
            raise HostUnfit(
                f"{name!r} is no control group that can be frozen", "its path below the hierarchy"
            )
        for kind, file in (("cgroup2", "cgroup.freeze"), ("cgroup", "freezer.state")):
            for top in _hierarchies(kind):
                folder = f"{top}/{self.name}"
                if os.path.exists(f"{folder}/{file}"):
                    self._refuse_ours(kind)
                    self._control = os.open(f"{folder}/{file}", os.O_RDWR | os.O_CLOEXEC)
                    if kind == "cgroup2":
                        self._events = os.open(f"{folder}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
                        self._changes = os.open(f"{folder}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
                    return
        raise FileNotFoundError(name)

    def arm(self) -> int | None:
        """A descriptor on which poll(2) finds POLLPRI from the next change on; None in version 1."""
        if self._changes is not None:
            os.pread(self._changes, 256, 0)  # what is not read since is a change
        return self._changes

    def state(self) -> str:
        """frozen, freezing or thawed."""
        wish = os.pread(self._control, 64, 0).decode().strip()
        if self._events is None:
            return wish.lower()
        if wish == "0":
            return "thawed"
        happened = os.pread(self._events, 256, 0).decode().splitlines()
        return "frozen" if "frozen 1" in happened else "freezing"

    def order(self, *, frozen: bool) -> None:
        """Tell the kernel; it does it in its own time."""
        words = ("1", "0") if self._events is not None else ("FROZEN", "THAWED")
        os.pwrite(self._control, words[0 if frozen else 1].encode(), 0)

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in (self._control, self._events, self._changes):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._control, self._events, self._changes = -1, None, None

    def _refuse_ours(self, kind: str) -> None:
        """Raise HostUnfit where we would freeze ourselves, or the machine's first process."""
        for pid, who in (("self", "app itself"), ("1", "the machine's first process")):
            for path in _memberships(pid, kind):
                if f"{path}/".startswith(f"/{self.name}/"):
                    raise HostUnfit(
                        f"{self.name}: holds {who}, which would be frozen with it", "name a group below it"
                    )


class CgroupConnection:
    """The freezers of some groups, opened before the hold."""

    identity = ""
    version: int | None = None

    def __init__(self, options: Options, steps: Sequence[Step], waiter: Waiter) -> None:
        self._waiter = waiter
        self._groups: list[_Group] = []
        self._watch: select.epoll | None = None
        self._frozen = False
        # Whoever only thaws comes after a crash or a reboot: a group that is gone is not frozen.
        only_thaws = {step.do["action"] for step in steps if step.mechanism == "cgroup"} == {"thaw"}
        try:
            for name in options["groups"]:
                try:
                    self._groups.append(_Group(name))
                except FileNotFoundError:
                    if not only_thaws:
                        raise HostUnfit(
                            f"there is no control group {name} with a freezer",
                            "systemd-cgls lists them; a service that does not run has none",
                        ) from None
                except OSError as error:
                    raise HostUnfit(f"control group {name}: {error.strerror}", "run it as root") from None
        except BaseException:
            self.kill()
            raise

    def perform(self, step: Step, deadline: float) -> str:
        """Do the action with every group; a line for each: its name, and its state."""
        action = step.do["action"]
        if action == "freeze":
            self._freeze(_noted(step.do["was"]), deadline)
        elif action == "thaw":
            self._thaw(_noted(step.do["was"]), deadline)
        elif action == "verify":
            self._verify()
        return "\n".join(f"{group.name} {group.state()}" for group in self._groups)

    def prove(self, deadline: float) -> None:
        """What was frozen is frozen."""
        if self._frozen:
            self._verify()

    def lost(self) -> int | None:
        """Readable when a frozen group was thawed or died; version 1 of control groups cannot tell."""
        return self._watch.fileno() if self._watch is not None else None

    def complaint(self) -> str:
        """What happened to a group."""
        return "a frozen control group was thawed by somebody else, or all its processes were killed"

    def close(self, deadline: float) -> None:
        """Close the descriptors; what is frozen stays so."""
        self.kill()

    def kill(self) -> None:
        """Close the descriptors; what is frozen stays so."""
        self._forget()
        for group in self._groups:
            group.close()
        self._groups = []

    def _freeze(self, noted: dict[str, str], deadline: float) -> None:
        for group in self._groups:
            if noted.get(group.name) != "thawed" or group.state() != "thawed":
                raise StepFailed(f"{group.name} is frozen already, by somebody else")
        for group in self._groups:
            group.order(frozen=True)
        self._await("frozen", deadline)
        self._frozen = True
        self._waiter.rest(NOTICE)
        watched = [changes for group in self._groups if (changes := group.arm()) is not None]
        if watched:
            self._watch = select.epoll()
            for descriptor in watched:
                self._watch.register(descriptor, select.EPOLLPRI)
        self._verify()

    def _verify(self) -> None:
        if not self._frozen:
            raise StepFailed("nothing was frozen here")
        if self._watch is not None and self._watch.poll(NOTICE):
            raise ConnectionLost(self.complaint())
        for group in self._groups:
            if (state := group.state()) != "frozen":
                raise ConnectionLost(f"{group.name} is {state}")

    def _thaw(self, noted: dict[str, str], deadline: float) -> None:
        self._forget()
        ours = [group for group in self._groups if noted.get(group.name) == "thawed"]
        for group in ours:
            group.order(frozen=False)
        for group in ours:
            self._await_one(group, "thawed", deadline)

    def _forget(self) -> None:
        self._frozen = False
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _await(self, state: str, deadline: float) -> None:
        for group in self._groups:
            self._await_one(group, state, deadline)

    def _await_one(self, group: _Group, state: str, deadline: float) -> None:
        while (now := group.state()) != state:
            if time.monotonic() > deadline:
                raise TimedOut(f"{group.name} is {now} after the time allowed")
            self._waiter.rest(LOOK)


def connect(
    options: Options, steps: Sequence[Step], waiter: Waiter, register: Register, deadline: float
) -> CgroupConnection:
    """Open the freezer of every group."""
    return CgroupConnection(options, steps, waiter)


def _hierarchies(kind: str) -> list[str]:
    """Where hierarchies of a kind are mounted: cgroup2, or cgroup (version 1) with a freezer."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            type_, _, options = rest.split(" ", 2)
            if type_ == kind and (kind == "cgroup2" or "freezer" in options.strip().split(",")):
                found.append(fields.split()[4])
    return found


def _memberships(pid: str, kind: str) -> list[str]:
    """The groups of a process in the hierarchies of a kind (cgroups(7), /proc/PID/cgroup)."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        lines = [line.strip().split(":", 2) for line in file]
    if kind == "cgroup2":
        return [path for number, _, path in lines if number == "0"]
    return [path for _, kinds, path in lines if "freezer" in kinds.split(",")]


def _noted(text: str) -> dict[str, str]:
    """The answer of ``note``: state by name. Raises StepFailed."""
    noted = {}
    for line in text.splitlines():
        match = _NOTED.fullmatch(line)
        if match is None:
            raise StepFailed(f"was: {line[:200]!r} is no line of an answer to note")
        noted[match.group(1)] = match.group(2)
    return noted
