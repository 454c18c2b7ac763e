"""A unit is ended as a whole, and with it all of us that stand in it: / takes writes again, orders go on.

Law 1 speaks of one process. What systemd, an operator or the kernel's OOM killer ends is a control group:
the watchdog stands in one of its own, and a holder that is told to end does so at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.vm import units
from tests.vm.image import Image
from tests.vm.machine import Machine, booted
from tests.vm.units import EXTENSION, Cut

pytestmark = [pytest.mark.vm(form="full"), pytest.mark.slow, pytest.mark.timeout(900)]

FULL = pytest.mark.vm(form="full")

LIMIT = 2.0
"""Seconds from the blow to the last of all that must be undone, by the guest's own clock."""

UNIT = "backup"

GROUP = f"/sys/fs/cgroup/system.slice/{UNIT}.service"

STOP = f"systemctl stop --no-block {UNIT}"

KILL = f"echo 1 >{GROUP}/cgroup.kill"
"""SIGKILL to every process of the group at one instant."""

STARVE = f"""\
{{ echo 8M >{GROUP}/memory.max; }} 2>/dev/null &
while [ -d /proc/$client ]; do sleep 0.01; done
read -r start _ </proc/uptime
"""
"""Less memory than all of them have: the OOM killer takes the client, the first that it may take."""


VERSION_1 = (
    "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1 "
    "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
)


@pytest.fixture
def machine(recovered: Cut) -> Machine:
    units.is_over(recovered.machine)
    return recovered.machine


@pytest.mark.parametrize(
    ("blow", "properties"),
    [
        pytest.param(STOP, (), id="stopped"),
        pytest.param(KILL, (), id="killed"),
        pytest.param(STARVE, ("MemorySwapMax=0", "OOMPolicy=stop"), id="out of memory"),
        pytest.param(STARVE, ("MemorySwapMax=0", "OOMPolicy=kill"), id="out of memory as one", marks=FULL),
        pytest.param(f"systemctl freeze {UNIT}", (), id="suspended", marks=FULL),
    ],
)
def test_root_takes_writes_again(machine: Machine, blow: str, properties: tuple[str, ...]) -> None:
    numbers = units.processes(units.frozen_by_run(machine, UNIT, 40, *properties))
    inside = machine.run(f"cat {GROUP}/cgroup.procs").checked().split()
    assert {str(numbers["client"]), str(numbers["holder"])} <= set(inside)
    assert str(numbers["watchdog"]) not in inside
    seconds = _strike(machine, f"client={numbers['client']}\n{blow}")
    print(f"writes after {seconds:.2f} s")
    assert seconds < LIMIT
    # What was only suspended would keep the hold's lock.
    machine.run(f"systemctl thaw {UNIT}; systemctl stop {UNIT}; systemctl reset-failed {UNIT}")
    units.is_over(machine)
    report = units.last_report(machine)
    assert report["achieved"] == "none", report
    assert report["because"], "the report says why"
    assert report["stuck"] == []
    if blow == STARVE:
        taken = machine.run(
            f"dmesg | grep -c 'Memory cgroup out of memory: Killed process {numbers['client']} '"
        )
        # It is said again where the first has not ended yet.
        assert taken.output.strip() in ("1", "2"), machine.run("dmesg | tail -n 20").output
        for role in ("holder", "watchdog"):
            assert machine.run(f"dmesg | grep 'Killed process {numbers[role]} '").status == 1


def _strike(machine: Machine, blow: str) -> float:
    """Strike while a write waits on / and one on the data disk; seconds until both went on."""
    output = machine.run(
        f"""
        rm -f /run/thawed.now
        for place in / /data/; do
            {{
                echo x >"${{place}}probe"
                read -r now _ </proc/uptime
                echo "$now" >>/run/thawed.now
            }} &
            probes="$probes $!"
        done
        sleep 0.5
        [ ! -e /run/thawed.now ] || exit 9
        read -r start _ </proc/uptime
        {blow}
        wait $probes
        rm /probe /data/probe
        echo "$start" $(cat /run/thawed.now)
        """,
        90,
    ).checked()
    begun, *thawed = map(float, output.split())
    assert len(thawed) == 2
    return max(thawed) - begun


@pytest.mark.parametrize(
    "blow",
    [
        pytest.param(STOP.replace(UNIT, EXTENSION), id="stopped", marks=FULL),
        pytest.param(KILL.replace(UNIT, EXTENSION), id="killed"),
    ],
)
def test_orders_go_on_between_the_scripts(machine: Machine, blow: str) -> None:
    """A pause that outlives whoever asked for it; the extension is ended before its post-script."""
    machine.run("systemctl start orders.service").checked()
    units.hold_by_pre(machine)
    output = machine.run(
        f"""
        read -r start _ </proc/uptime
        {blow}
        while [ -e /var/lib/orders/paused ]; do sleep 0.01; done
        read -r now _ </proc/uptime
        echo "$start" "$now"
        """
    ).checked()
    begun, resumed = map(float, output.split())
    print(f"orders go on after {resumed - begun:.2f} s")
    assert resumed - begun < LIMIT
    units.is_over(machine)
    # Should the post-script come after all, it vouches for nothing.
    assert machine.run("sh /etc/azure/stillframe/post.sh").status == 1
    assert units.last_report(machine)["achieved"] != "application"


@FULL
def test_version_1_of_control_groups(systemd_image: Callable[..., Image]) -> None:
    """As RHEL 7 and 8 have it: systemd ends a unit by a hierarchy that has no cgroup.kill."""
    image = replace(systemd_image("ext4"), parameters=VERSION_1)
    with booted(image) as machine:
        numbers = units.processes(units.frozen_by_run(machine, UNIT, 40))
        groups = machine.run(f"cat /proc/{numbers['watchdog']}/cgroup").checked()
        assert "name=systemd:/stillframe" in groups
        assert "\n0::" not in f"\n{groups}"
        seconds = _strike(machine, f"systemctl kill --signal=KILL {UNIT}")
        print(f"writes after {seconds:.2f} s")
        assert seconds < LIMIT
        units.is_over(machine)


@FULL
def test_programs_of_a_recipe_heed_signals(machine: Machine) -> None:
    """Ours outlast SIGTERM; what they start does not, nor is it spared by the OOM killer."""
    look = "grep SigIgn /proc/self/status >/run/ignored\ncat /proc/self/oom_score_adj >/run/score"
    machine.write("/usr/local/bin/told-ctl", f'#!/bin/sh\n{look}\nexec orders-ctl "$@"\n', 0o755)
    machine.write(
        "/etc/told.toml",
        'version = 1\nname = "orders"\nextends = "example-custom"\n'
        '[settings]\ncontrol = "/usr/local/bin/told-ctl"\nos_user = "root"\n'
        '[snapshot]\nprovider = "none"\nseconds = 0\n',
    )
    machine.run("systemctl start orders.service").checked()
    machine.run("app run /etc/told.toml --quiet").checked()
    ignored = int(machine.run("cut -f2 /run/ignored").checked(), 16)
    assert not ignored & (1 << 14 | 1 << 1 | 1), "SIGTERM, SIGINT, SIGHUP"
    assert machine.run("cat /run/score").checked() == machine.run("cat /proc/self/oom_score_adj").checked()
    units.is_over(machine)
