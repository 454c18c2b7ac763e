"""How long each server takes from the pre-script's start to held, and from the post-script's to writing.

    python -m tests.servers.bench [--rounds N | --quick] [--keep] [--binary PATH] [NAME...]

Each server runs on an ext4 filesystem of its own and is written to by several processes, while the
compiled pair of scripts holds and releases it; the longest pause of any writer meanwhile is held against
the longest before. Then five of them are held at once, without writers: what counts is how long that
takes, against the slowest of them alone. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tests.bench.machine import Machine, look
from tests.integration.stage import Stage, stage
from tests.servers.engine import Engine
from tests.servers.engines import engines
from tests.servers.ground import Ground, ground
from tests.servers.load import load

AIM = 1.5
"""Five at once are to take at most so many times as long as the slowest of them alone."""

FIVE = ("postgresql-backup", "mariadb-stages", "mysql-instance", "redis-rdb", "sqlite-wal", "valkey-rdb")
"""Which five: the first of these that can be had."""

KEPT = Path(__file__).parents[1] / "bench" / "figures" / "servers.md"

HANDED_OFF = 0.2
"""Seconds between the two scripts: the snapshot's time."""

_TIMING = "[timing]\nquiesce = 20\nretries = 0\nhold = 70\nrelease = 10\n"


@dataclass(slots=True)
class Times:
    """Seconds, a round each.

    From the pre-script's start to ``held``, from the post-script's to ``written`` again by every writer;
    the longest pause between two commits of a writer, between those (``stood``) and before (``usual``).
    """

    held: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)
    stood: list[float] = field(default_factory=list)
    usual: list[float] = field(default_factory=list)

    def line(self) -> str:
        """The columns of the table."""
        spreads = "".join(_column(values) for values in (self.held, self.written))
        return spreads + "".join(f" {statistics.median(each):>7.3f}" for each in (self.stood, self.usual))


@dataclass(frozen=True, slots=True)
class Pair:
    """The compiled pre- and post-script of some servers."""

    here: Stage
    folder: Path

    @staticmethod
    def compiled(here: Stage, grounds: Sequence[Ground], name: str) -> Pair:
        """Compile one policy a server into one pair, in a folder of that name. Raises RuntimeError."""
        policies = [
            here.policy(
                f"{on.engine.operator(on.server)}{_TIMING}[freeze]\nenabled = false\n", on.engine.name
            )
            for on in grounds
        ]
        folder = here.folder / name
        status, output, errors = here.app("compile", *policies, "--out", folder, "--binary", here.command[0])
        if status:
            raise RuntimeError(errors + output)
        return Pair(here, folder)

    def hold(self) -> float:
        """Run the pre-script; seconds from its start until the last server was held. Raises RuntimeError."""
        begun = time.monotonic()
        self._run("pre.sh")
        return max(float(e["t"]) for e in self.here.events() if e["event"] == "quiesced") - begun

    def release(self) -> float:
        """Run the post-script; the time (CLOCK_MONOTONIC) at which it was started. Raises RuntimeError."""
        begun = time.monotonic()
        self._run("post.sh")
        return begun

    def _run(self, script: str) -> None:
        environ = {**os.environ, "STILLFRAME_PREFIX": str(self.here.prefix)}
        path = self.folder / "stillframe" / script
        done = subprocess.run(["sh", str(path)], env=environ, stdin=subprocess.DEVNULL)
        if done.returncode:
            logs = [log.read_text() for log in (self.here.prefix / "var/log/stillframe").glob("*.log")]
            raise RuntimeError(f"{path} ended with {done.returncode}: {logs}")


def first_of(number: int) -> list[Engine]:
    """So many engines of different servers, or fewer where no more can be had."""
    known = {engine.name: engine for engine in engines()}
    return [known[name] for name in FIVE if name in known and not known[name].missing()][:number]


def measure(on: Ground, command: Sequence[str], rounds: int) -> Times:
    """Hold and release one server so many times, under load."""
    times = Times()
    with stage(list(command)) as here:
        pair = Pair.compiled(here, [on], "alone")
        for _ in range(rounds):
            with load(on.engine, on.server, here.folder, next(on.runs)) as writing:
                writing.wait_for(20)
                time.sleep(0.5)
                begun = time.monotonic()
                times.held.append(pair.hold())
                time.sleep(HANDED_OFF)
                released = pair.release()
                written = writing.first_after(released, 10)
                times.written.append(written - released)
                times.stood.append(writing.longest_stall(begun, written))
                times.usual.append(writing.longest_stall(until=begun))
    return times


def at_once(grounds: Sequence[Ground], command: Sequence[str], rounds: int) -> tuple[dict[str, float], float]:
    """Medians, without writers: each server alone, by name, and all in one plan. Seconds to held."""
    with stage(list(command)) as here:
        pairs = {on.engine.name: Pair.compiled(here, [on], on.engine.name) for on in grounds}
        pairs["together"] = Pair.compiled(here, grounds, "together")
        found: dict[str, list[float]] = {name: [] for name in pairs}
        for _ in range(rounds):
            for name, pair in pairs.items():
                found[name].append(pair.hold())
                pair.release()
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    return medians, medians.pop("together")


def report(command: Sequence[str], rounds: int, names: Sequence[str] = ()) -> list[str]:
    """Measure all servers that can be had, or those of these names; the lines of both tables, printed too."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    say("seconds: from the pre-script's start to held, from the post-script's until all writers wrote again;")
    say("the longest pause of any writer from the one to the other, and before")
    spread = "(min to max)"
    say(f"{'server':<24} {'held':>7} {spread:>17} {'written':>7} {spread:>17} {'pause':>7} {'before':>7}")
    chosen = [engine for engine in engines() if not names or engine.name in names]
    for engine in chosen:
        if missing := engine.missing():
            say(f"{engine.name:<24} skipped: {missing}")
            continue
        with ground(engine, "ext4") as on:
            times = measure(on, command, rounds)
        say(f"{engine.name:<24}{times.line()}")
    if not names:
        say("")
        report_five(command, rounds, say)
    return said


def report_five(command: Sequence[str], rounds: int, say: Callable[[str], None]) -> None:
    """Measure five servers at once, and say whether the aim was reached."""
    five = first_of(5)
    if len(five) < 5:
        say(f"five at once: skipped, there are only {len(five)} servers")
        return
    with contextlib.ExitStack() as stack:
        grounds = [stack.enter_context(ground(engine, "ext4")) for engine in five]
        alone, together = at_once(grounds, command, rounds)
    for name, seconds in alone.items():
        say(f"alone    {name:<20} {seconds:>7.3f}")
    ratio = together / max(alone.values())
    reached = "reached" if ratio <= AIM else "NOT reached"
    say(f"together {'':<20} {together:>7.3f}   {ratio:.2f} times the slowest; the aim is {AIM} ({reached})")


def _column(values: Sequence[float]) -> str:
    spread = f"({min(values):.3f} to {max(values):.3f})"
    return f" {statistics.median(values):>7.3f} {spread:>17}"


def page(on: Machine, tables: Sequence[str]) -> str:
    """What is kept of a run."""
    machine = "\n".join(f"- {line}" for line in on.lines())
    figures = "\n".join(tables)
    return f"""# How long servers take to be held and released

Medians. Each server is on an ext4 filesystem of its own and written to by several processes; the compiled
pair of scripts holds and releases it, and nothing is frozen. "Written" ends once every writer has committed
again. The two scripts are {HANDED_OFF} s apart: where writers stand still, so much of their pause is the
snapshot's time. Then five servers alone and in one plan, without writers.

```
{figures}
```

## The machine

{machine}

Written by `make bench ARGS=--keep`.
"""


def main() -> int:
    """Measure, and print the tables; 0 once measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_const", const=2, dest="rounds", help="two rounds")
    parser.add_argument(
        "--keep", action="store_true", help=f"write the tables to {KEPT.relative_to(KEPT.parents[3])}"
    )
    parser.add_argument("--binary", default=str(Path(sys.executable).with_name("app")))
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("bench: needs root: loop devices, mounts and freezing", file=sys.stderr)
        return 4

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # the servers and their filesystems end with us

    signal.signal(signal.SIGTERM, leave)
    found = look()
    tables = report([arguments.binary], arguments.rounds, arguments.names)
    if arguments.keep:
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(page(found, tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
