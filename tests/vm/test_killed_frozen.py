"""Any one process of ours dies while / is frozen: within two seconds / takes writes again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.vm import orders
from tests.vm.image import Image
from tests.vm.machine import Machine, booted

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = 2.0
"""Seconds from the kill to the first accepted write: law 1, by the guest's own clock."""

REHEARSAL = """\
[snapshot]
provider = "none"
seconds = 40
"""

FULL = pytest.mark.vm(form="full")


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest, vm_image: Callable[[str], Image]) -> Iterator[Machine]:
    with booted(vm_image(request.param)) as started:
        orders.start_writer(started)
        yield started


@pytest.mark.parametrize(
    ("victim", "signal"),
    [
        ("holder", "KILL"),
        ("watchdog", "KILL"),
        ("client", "KILL"),
        pytest.param("holder", "STOP", marks=FULL),
        pytest.param("watchdog", "STOP", marks=FULL),
    ],
)
@pytest.mark.parametrize("machine", ["ext4", pytest.param("xfs", marks=FULL)], indirect=True)
def test_root_takes_writes_again(machine: Machine, victim: str, signal: str) -> None:
    cycle = orders.start_cycle(machine, orders.SQLITE + REHEARSAL)
    events = orders.frozen_root(machine)
    pids = {e["role"]: e["pid"] for e in events if e["event"] == "process"}
    pids["client"] = next(e["pid"] for e in events if e["event"] == "begin")
    seconds = _strike(machine, pids[victim], signal)
    print(f"{victim} {signal}: writes after {seconds:.2f} s")
    assert seconds < LIMIT
    answer = cycle.wait()
    assert answer.status != 0, "a hold that was lost was never application-consistent"
    if victim != "client":
        assert orders.report(cycle, answer)["achieved"] != "application"
    machine.run("flock --wait 10 /run/stillframe/lock true").checked()
    machine.wait_for_commits(2)
    blocked = machine.run("cat /proc/[0-9]*/stat 2>/dev/null | grep '(app) [DT]' || true").checked()
    assert blocked == ""


def _strike(machine: Machine, pid: int, signal: str) -> float:
    """Send the signal while a write waits on / and one on the data disk; seconds until both went on."""
    output = machine.run(
        f"""
        rm -f /run/thawed.now
        for place in / /data/; do
            {{
                echo x >"${{place}}probe-{pid}"
                read -r now _ </proc/uptime
                echo "$now" >>/run/thawed.now
            }} &
        done
        sleep 0.5
        [ ! -e /run/thawed.now ] || exit 9
        read -r start _ </proc/uptime
        kill -{signal} {pid}
        wait
        rm /probe-{pid} /data/probe-{pid}
        echo "$start" $(cat /run/thawed.now)
        """
    ).checked()
    start, *thawed = map(float, output.split())
    assert len(thawed) == 2
    return max(thawed) - start
