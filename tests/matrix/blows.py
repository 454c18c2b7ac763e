"""Blows: who is struck in which form of cycle, by what, and when; planned by chance from a seed.

A blow's instant is an event of the journal and a delay after it. Which events there are, and who lives
at each, is learned from a cycle that nobody disturbs, so a step that is new is struck without a word here.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from app.journal import Event
from tests.matrix.forms import Running
from tests.matrix.lane import Lane

KILL, STOP, PAUSE, STOP_KILL = "KILL", "STOP", "PAUSE", "STOP+KILL"
"""SIGKILL; SIGSTOP for good; SIGSTOP and SIGCONT later; SIGSTOP and SIGKILL later."""

WEIGHTS = {KILL: 11, STOP: 5, PAUSE: 2, STOP_KILL: 2}

PAUSES = (0.05, 0.3, 0.7, 1.0, 1.5, 2.5)
"""Seconds until a paused process goes on: shorter and longer than it takes others to give it up."""

LONGEST_DELAY = 0.3
"""Seconds after an event, where nothing comes for long."""

_FACTS = ("role", "app", "mount", "phase", "what")
"""What tells events of one name apart, besides their number."""


@dataclass(frozen=True, slots=True)
class Blow:
    """``instant``: an event and which of its kind; ``later``: seconds until the second signal."""

    form: str
    victim: str
    signal: str
    instant: str
    delay: float
    later: float = 0.0

    @property
    def role(self) -> str:
        """The victim without its application or number."""
        return self.victim.partition(":")[0]

    def to_json(self) -> str:
        """What STILLFRAME_TEST_BLOW takes."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Instant:
    """An event of an undisturbed cycle: seconds until the next, and who lives then."""

    name: str
    gap: float
    alive: frozenset[str]


@dataclass(frozen=True, slots=True)
class Struck:
    """When the (last deadly) signal was sent, CLOCK_MONOTONIC seconds.

    ``hit``: False if too late. ``killed``: whether SIGKILL found it, too.
    """

    hit: bool
    moment: float
    pid: int = 0
    killed: bool = False


class Follower:
    """Reads the journal as it grows: events with names of their own, and the processes they tell of."""

    def __init__(self, lane: Lane) -> None:
        self._path = Path(lane.where.paths.journal)
        # Names are the same on every lane.
        self._places = {str(v.mount): v.kind for v in lane.volumes}
        self._places |= {str(lane.foreign.mount): "foreign", f"{lane.where.folder}/": ""}
        self._at = 0
        self._rest = b""
        self._count: collections.Counter[str] = collections.Counter()
        self.pids: dict[str, int] = {}

    def read(self) -> Iterator[tuple[str, Event]]:
        """What is new: the instant's name, and the event."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
            self._at += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                event: Event = json.loads(line)
                self._learn(event)
                yield self._numbered(self._plain(event)), event

    def _learn(self, event: Event) -> None:
        if event["event"] == "begin":
            self.pids["app"] = event["pid"]
        elif event["event"] == "process":
            role = ":".join(str(event[k]) for k in ("role", "app") if k in event)
            name = self._numbered(f"process {role}") if event["role"] == "client" else role
            self.pids[name.removeprefix("process ")] = event["pid"]

    def _plain(self, event: Event) -> str:
        name = " ".join([event["event"], *(str(event[k]) for k in _FACTS if k in event)])
        for place, plain in self._places.items():
            name = name.replace(place, plain)
        return name

    def _numbered(self, name: str) -> str:
        self._count[name] += 1
        return f"{name}#{self._count[name]}"


def learn(lane: Lane, running: Running) -> list[Instant]:
    """Every instant of an undisturbed cycle that comes in each such cycle."""
    follower = Follower(lane)
    found: list[tuple[str, float, frozenset[str]]] = []
    while True:
        over = running.over()
        for name, event in follower.read():
            pids = follower.pids | running.others()
            alive = frozenset(who for who, pid in pids.items() if is_alive(pid))
            found.append((name, float(event["t"]), alive))
        if over:
            break
        time.sleep(0.0005)
    assert found, running.words()
    ends = [t for _, t, _ in found[1:]] + [found[-1][1]]
    return [
        Instant(name, max(0.0, end - t), alive)
        for (name, t, alive), end in zip(found, ends, strict=True)
        # How many rounds a writeback takes, and what else is on this machine, is not the same each time.
        if not name.startswith("hazard") and (not name.startswith("presync") or name.endswith("#1"))
    ]


def plan(instants: dict[str, list[Instant]], number: int, seed: int) -> list[Blow]:
    """That many blows: each victim of each form in turn, each of its instants before any comes again."""
    chance = random.Random(seed)
    decks: dict[tuple[str, str], list[tuple[str, Instant]]] = collections.defaultdict(list)
    for form, learned in instants.items():
        for instant in learned:
            for victim in sorted(instant.alive):
                decks[form, victim.partition("#")[0]].append((victim, instant))
    for deck in decks.values():
        chance.shuffle(deck)
    turns = sorted(decks)
    blows: list[Blow] = []
    dealt = collections.Counter[tuple[str, str]]()
    while len(blows) < number:
        chance.shuffle(turns)
        for turn in turns[: number - len(blows)]:
            victim, instant = decks[turn][dealt[turn] % len(decks[turn])]
            dealt[turn] += 1
            kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if victim == "script" and kind != PAUSE:
                kind = KILL  # whoever stops it for good has stopped the extension, too
            at_once = chance.random() < 0.4
            delay = 0.0 if at_once else round(chance.uniform(0, min(LONGEST_DELAY, instant.gap + 0.002)), 4)
            later = {PAUSE: chance.choice(PAUSES), STOP_KILL: round(chance.uniform(0.01, 1.2), 3)}
            blows.append(Blow(turn[0], victim, kind, instant.name, delay, later.get(kind, 0.0)))
    return blows


def strike(lane: Lane, blow: Blow, running: Running) -> Struck:
    """Send the signals; not hit where the instant never comes, or the victim has ended by then."""
    follower = Follower(lane)
    while (began := _reached(follower, blow.instant)) is None:
        if running.over():
            return Struck(False, time.monotonic())
        time.sleep(0.0003)
    while (left := began + blow.delay - time.monotonic()) > 0:
        time.sleep(left)
    pid = (follower.pids | running.others()).get(blow.victim, 0)
    if not pid or not is_alive(pid):
        return Struck(False, time.monotonic())
    first = signal.SIGKILL if blow.signal == KILL else signal.SIGSTOP
    moment = time.monotonic()
    if not send(pid, first):
        return Struck(False, moment)
    killed = blow.signal == KILL
    if blow.signal in (PAUSE, STOP_KILL):
        time.sleep(blow.later)
        second = signal.SIGCONT if blow.signal == PAUSE else signal.SIGKILL
        if is_alive(pid):
            killed = blow.signal == STOP_KILL
            moment = time.monotonic() if killed else moment
            send(pid, second)
    return Struck(True, moment, pid, killed)


def send(pid: int, number: signal.Signals) -> bool:
    """Whether there was somebody to send it to."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def is_alive(pid: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status[status.rfind(b")") + 2 :][:1] not in (b"Z", b"X")


def _reached(follower: Follower, instant: str) -> float | None:
    for name, event in follower.read():
        if name == instant:
            return float(event["t"])
    return None


def parse(text: str) -> Sequence[Blow]:
    """The blows of STILLFRAME_TEST_BLOW: one, or a list of them."""
    found = json.loads(text)
    return [Blow(**one) for one in (found if isinstance(found, list) else [found])]
