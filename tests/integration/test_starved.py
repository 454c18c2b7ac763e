"""A machine that is short of processors or of memory: our processes run before others, and stay.

What thaws and releases runs in SCHED_RR, locked in memory and spared by the OOM killer; programs that
are started for an application get none of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ledger, scratch
from tests.integration.groups import Group, NoGroup, busy, group
from tests.integration.stage import Cycle, Stage, first_commit_after, stage, write_probe
from tests.integration.strike import LIMIT, check_claims, last_hold, thaw_is_refused

pytestmark = [pytest.mark.integration, pytest.mark.root]

CAP_SYS_RESOURCE = 24
"""include/uapi/linux/capability.h"""

POLICY = """
name = "orders"
proven = "stand-in"
level = "application"
[timing]
quiesce = 20
retries = 0
hold = 30
release = 20
[sqlite]
databases = ["{database}"]
[[quiesce]]
mechanism = "command"
argv = ["{program}", "quiesce"]
[[quiesce]]
mechanism = "sqlite"
action = "lock"
[[verify]]
mechanism = "sqlite"
action = "verify"
[[release]]
mechanism = "sqlite"
action = "release"
proof = true
[[recover]]
mechanism = "command"
argv = ["{program}", "recover"]
[freeze]
mounts = ["{mount}"]
timeout = 20
[snapshot]
provider = "command"
argv = ["{program}", "snapshot"]
"""

PROGRAM = """\
#!/bin/sh
cat /proc/$$/oom_score_adj /proc/$$/stat >{folder}/$1.seen
[ "$1" != snapshot ] || exec sleep {seconds}
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the kernel says of a process. ``policy``: SCHED_*; ``locked``: bytes."""

    policy: int
    priority: int
    nice: int
    oom: int
    locked: int

    @staticmethod
    def of(pid: int) -> Standing:
        """A process that runs."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        locked = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmLck"))
        stat = Path(f"/proc/{pid}/stat").read_text()
        return Standing._parse(Path(f"/proc/{pid}/oom_score_adj").read_text(), stat, locked)

    @staticmethod
    def seen(path: Path) -> Standing:
        """What a program wrote down of itself."""
        oom, _, stat = path.read_text().partition("\n")
        return Standing._parse(oom, stat, 0)

    @staticmethod
    def _parse(oom: str, stat: str, locked: int) -> Standing:
        fields = stat.rpartition(")")[2].split()  # proc(5): from the third field on
        return Standing(int(fields[38]), int(fields[37]), int(fields[16]), int(oom), locked)


@dataclass(slots=True)
class Ground:
    """A stage, its volume, and the policy of a snapshot that takes ``seconds``."""

    where: Stage
    volume: scratch.Volume
    command: list[str]
    database: Path
    writer: ledger.Writer

    def policy(self, seconds: float) -> Path:
        text = PROGRAM.format(folder=self.where.folder, seconds=seconds)
        program = self.where.program(f"program-{seconds}", text)
        text = POLICY.format(database=self.database, program=program, mount=self.volume.mount)
        return self.where.policy(text, f"orders-{seconds}")

    def start(self, seconds: float, *before: str) -> Cycle:
        """``app run``, started by the command ``before``."""
        self.where.command = [*before, *self.command]
        try:
            return self.where.start("run", "--json", "--quiet", self.policy(seconds))
        finally:
            self.where.command = self.command

    def next_succeeds(self) -> None:
        status, report = self.where.run(self.policy(0.05))
        assert (status, report["achieved"], report["because"]) == (0, "application", [])


@pytest.fixture(scope="module")
def volume() -> Iterator[scratch.Volume]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with scratch.filesystem("ext4", 128) as made:
        yield made


@pytest.fixture
def ground(app_command: list[str], volume: scratch.Volume) -> Iterator[Ground]:
    with stage(app_command) as where:
        database = volume.mount / f"{where.folder.name}.db"
        try:
            with ledger.Writer("sqlite", str(database), notes=where.folder / "ledger") as writer:
                yield Ground(where, volume, app_command, database, writer)
        finally:
            scratch.thaw(volume.mount)


@contextlib.contextmanager
def or_skip(controller: str) -> Iterator[Group]:
    try:
        with group(controller) as made:
            yield made
    except NoGroup as reason:
        pytest.skip(f"needs a control group: {reason}")


def standing(cycle: Cycle) -> dict[str, Standing]:
    roles = ("app", "holder", "watchdog", "keeper")
    return {role: Standing.of(cycle.pid(role)) for role in roles}


def may_spare() -> bool:
    """Whether root may do here what it may on a VM: spare a process from the OOM killer, raise a limit."""
    words = Path("/proc/self/status").read_text().split()
    return bool(int(words[words.index("CapEff:") + 1], 16) >> CAP_SYS_RESOURCE & 1)


def as_started(*, oom: int, nice: int) -> list[str]:
    return ["/bin/sh", "-c", f'echo {oom} >/proc/self/oom_score_adj; exec nice -n {nice} "$@"', "sh"]


def test_ours_run_before_others_and_nobody_has_it_from_us(ground: Ground) -> None:
    """Also where the backup job itself stands behind everybody: its value is what programs get."""
    cycle = ground.start(0.8, *as_started(oom=300, nice=7))
    cycle.when("process", role="provider")
    found = standing(cycle)
    child = Standing.of(cycle.pid("client"))
    assert cycle.wait(20) == 0, cycle.errors
    for role in ("app", "holder", "watchdog", "keeper"):
        assert (found[role].policy, found[role].priority) == (os.SCHED_RR, 1), role
    if may_spare():
        assert [found[role].oom for role in ("holder", "watchdog", "keeper")] == [-1000] * 3
    assert found["app"].oom == 300
    assert all(found[role].locked > 4 << 20 for role in ("holder", "watchdog", "keeper")), found
    for word in ("quiesce", "snapshot"):
        one = Standing.seen(ground.where.folder / f"{word}.seen")
        assert (one.policy, one.priority, one.nice, one.oom) == (os.SCHED_OTHER, 0, 7, 300), word
    # It keeps a lock that writers wait for, with little left to do; memory it may use much of.
    assert (child.policy, child.nice, child.oom) == (os.SCHED_RR, 7, 300)


def test_what_the_watchdog_starts_has_nothing_of_it(ground: Ground) -> None:
    cycle = ground.start(5, *as_started(oom=300, nice=7))
    cycle.when("process", role="provider")
    victims = [cycle.pid("keeper"), cycle.pid("holder")]
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)  # neither has time to release
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    assert cycle.wait(15) != 0
    ground.where.wait_until_free(5)
    assert [e["reason"] for e in ground.where.events() if e["event"] == "watchdog"] == ["the holder died"]
    found = Standing.seen(ground.where.folder / "recover.seen")
    assert (found.policy, found.nice, found.oom) == (os.SCHED_OTHER, 7, 300)


@pytest.mark.parametrize("best", [-10, 0])
def test_without_the_right_to_it(ground: Ground, best: int) -> None:
    """The kernel refuses SCHED_RR, or all of it: the cycle is the same. ``best``: the nice value allowed."""
    if best and not may_spare():
        pytest.skip("needs CAP_SYS_RESOURCE: without it no limit can be raised")
    limits = ["prlimit", f"--nice={20 - best}", "--rtprio=0"] if best else []
    cycle = ground.start(0.5, *limits, "setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice")
    cycle.when("process", role="provider")
    found = standing(cycle)
    assert cycle.wait(20) == 0, cycle.errors
    assert {(one.policy, one.nice) for one in found.values()} == {(os.SCHED_OTHER, best)}


STRUCK = [
    ("holder", signal.SIGKILL),
    ("holder", signal.SIGSTOP),
    ("watchdog", signal.SIGKILL),
    ("watchdog", signal.SIGSTOP),
    ("keeper", signal.SIGKILL),
    ("app", signal.SIGKILL),
    ("client", signal.SIGKILL),
]


@pytest.mark.slow
@pytest.mark.parametrize("nice", [0, -20])
@pytest.mark.parametrize(("who", "number"), STRUCK, ids=[f"{w}-{n.name}" for w, n in STRUCK])
def test_thaws_where_every_processor_is_busy(
    ground: Ground, who: str, number: signal.Signals, nice: int
) -> None:
    """Law 1 beside eight busy processes: on two processors, as an ordinary process, it took nine seconds."""
    with or_skip("cpu") as crowded:
        with contextlib.suppress(NoGroup):
            crowded.grant_real_time(100_000)
        cycle = ground.start(6, *crowded.enter())
        cycle.when("process", role="provider")
        victim = cycle.pid(who)
        with busy(8, nice, crowded):
            time.sleep(0.3)
            struck = time.monotonic()
            os.kill(victim, number)
            thawed = write_probe(ground.volume.mount)(LIMIT)
            since = last_hold(ground.where.events(), struck)
            released = first_commit_after(ground.writer, since, 5) - struck
        status = cycle.wait(20)
        ground.where.wait_until_free(5)
    assert released < LIMIT, (released, ground.where.events())
    assert thaw_is_refused(ground.volume.mount)
    check_claims(ground.where, cycle, status, who, number)
    print(f"{who} {number.name} beside nice {nice}: thawed {thawed:.3f} s, released {released:.3f} s after")


@pytest.mark.slow
def test_thaws_where_groups_have_no_real_time_budget(ground: Ground) -> None:
    """A kernel with budgets refuses SCHED_RR in a group that was granted none: nice -10 does."""
    with or_skip("cpu") as crowded:
        try:
            crowded.grant_real_time(0)
        except NoGroup as reason:
            pytest.skip(str(reason))
        cycle = ground.start(6, *crowded.enter())
        cycle.when("process", role="provider")
        assert {(one.policy, one.nice) for one in standing(cycle).values()} == {(os.SCHED_OTHER, -10)}
        holder = cycle.pid("holder")
        with busy(8, -20, crowded):
            time.sleep(0.3)
            os.kill(holder, signal.SIGKILL)
            write_probe(ground.volume.mount)(LIMIT)
        assert cycle.wait(20) not in (0, 7)
        ground.where.wait_until_free(5)


@pytest.mark.slow
def test_a_busy_machine_costs_no_hold(ground: Ground) -> None:
    """Three seconds of it: nobody is taken for dead who only waits for a processor."""
    with or_skip("cpu") as crowded:
        with contextlib.suppress(NoGroup):
            crowded.grant_real_time(100_000)
        cycle = ground.start(4, *crowded.enter())
        cycle.when("process", role="provider")
        with busy(8, -20, crowded):
            time.sleep(3)
        assert cycle.wait(20) == 0, (cycle.errors, ground.where.events())
    assert [r["achieved"] for r in ground.where.reports()] == ["application"]


HOG = "import time; kept = []\nwhile True: kept.append(b'x' * (1 << 20)); time.sleep(0.001)"


@pytest.mark.slow
def test_the_oom_killer_takes_the_client(ground: Ground) -> None:
    """Memory runs out in the hold: the client program is killed, whoever thaws is not."""
    if not may_spare():
        pytest.skip("needs CAP_SYS_RESOURCE: without it nobody is spared by the OOM killer")
    with or_skip("memory") as crowded:
        crowded.limit_memory(400 << 20)
        cycle = ground.start(8, *crowded.enter(), *as_started(oom=1000, nice=0))
        cycle.when("process", role="provider")
        hog = [*crowded.enter(), sys.executable, "-IS", "-c", HOG]
        with subprocess.Popen(hog, stdin=subprocess.DEVNULL) as process:
            try:
                status = cycle.wait(20)
                struck = time.monotonic()
                thawed = write_probe(ground.volume.mount)(LIMIT)
            finally:
                process.kill()
        ground.where.wait_until_free(5)
        assert crowded.oom_kills() > 0
    assert status == -signal.SIGKILL
    assert thaw_is_refused(ground.volume.mount)
    check_claims(ground.where, cycle, status, "app")
    assert [e["role"] for e in ground.where.events() if e["event"] == "watchdog"] == []
    ground.next_succeeds()
    print(f"thawed {thawed:.3f} s after the end of the client, {time.monotonic() - struck:.3f} s in all")
