"""The VM's memory runs out while / is frozen: what may be taken of ours is, and whoever thaws is spared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.vm import orders
from tests.vm.image import Image
from tests.vm.machine import Machine, booted

pytestmark = [pytest.mark.vm(form="full"), pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = 2.0
"""Seconds from the first kill to the first accepted write: law 1, by the guest's own clock."""

REHEARSAL = """\
[snapshot]
provider = "none"
seconds = 40
"""


@pytest.fixture(scope="module")
def machine(vm_image: Callable[[str], Image]) -> Iterator[Machine]:
    with booted(vm_image("ext4")) as started:
        orders.start_writer(started)
        yield started


def test_who_thaws_is_spared(machine: Machine) -> None:
    machine.write("/etc/orders.toml", orders.SQLITE + REHEARSAL)
    # Everything of it that is not spared goes first.
    first = "echo 1000 >/proc/self/oom_score_adj; exec app run /etc/orders.toml --json 2>/run/run.err"
    cycle = machine.start(first, 120)
    events = orders.frozen_root(machine)
    pids = {e["role"]: int(e["pid"]) for e in events if e["event"] == "process"}
    client = next(int(e["pid"]) for e in events if e["event"] == "begin")
    roles = ("holder", "watchdog", "keeper", "client")
    scores = machine.run("".join(f"cat /proc/{pids[role]}/oom_score_adj;" for role in roles))
    assert scores.checked().split() == ["-1000", "-1000", "-1000", "1000"]
    thawed = float(
        machine.run(
            """
            { echo x >/probe; read -r now _ </proc/uptime; echo "$now" >/run/thawed; } &
            probe=$!
            sleep 0.3
            [ ! -e /run/thawed ] || exit 9
            tail /dev/zero >/dev/null 2>&1 &
            wait $probe
            kill -9 $! 2>/dev/null
            rm /probe
            cat /run/thawed
            """,
            90,
        ).checked()
    )
    taken = re.findall(r"\[ *([0-9.]+)\].*Killed process (\d+)", machine.run("dmesg").checked())
    assert taken, machine.console()
    print(f"writes {thawed - float(taken[0][0]):.2f} s after the first was killed for memory")
    assert thawed - float(taken[0][0]) < LIMIT
    killed = {int(pid) for _, pid in taken}
    assert killed & {client, pids["client"]}, taken
    assert not killed & {pids["holder"], pids["watchdog"], pids["keeper"]}
    answer = cycle.wait()
    assert answer.status != 0
    machine.run("flock --wait 10 /run/stillframe/lock true").checked()
    assert machine.run("app recover").status == 0
