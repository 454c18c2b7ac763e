"""Power is cut at any instant of a hold: the next boot ends clean, without a hand.

The application is one whose pause survives a reboot, so that a hold which was cut off leaves it
paused on disk: ``app recover``, run at boot, must have resumed it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest

from tests.vm import orders
from tests.vm.conftest import FULL
from tests.vm.image import Image
from tests.vm.machine import Disks, Machine, folder

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(1800)]

CUTS = 20 if FULL else 3

HOLD = 6.0

SPAN = HOLD + 2.0
"""Seconds from a hold's first event to its last, about: an emulated VM takes two for the rest."""

REHEARSAL = f"""\
[snapshot]
provider = "none"
seconds = {HOLD}
"""


@pytest.mark.parametrize("kind", ["ext4", pytest.param("xfs", marks=pytest.mark.vm(form="full"))])
def test_every_next_boot_is_clean(kind: str, vm_image: Callable[[str], Image]) -> None:
    image = vm_image(kind)
    seed = int(os.environ.get("STILLFRAME_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"STILLFRAME_TEST_SEED={seed}")
    chance = random.Random(seed)
    left_paused = left_frozen = 0
    with folder() as place:
        disks = Disks(place, {"root": image.root, "data": image.data}, kind)
        machine = Machine(image, disks)
        try:
            for number in range(CUTS):
                # One in each part of the span, so that a few cuts cover it too; the last within the
                # freeze for certain, however slow the machine is.
                instant = (number + chance.random()) / CUTS * SPAN if number + 1 < CUTS else None
                frozen = _cut_during_hold(machine, instant, chance.uniform(0, 0.3))
                left_frozen += bool(frozen)
                machine = Machine(image, disks)
                left = machine.run("cat /run/found-at-boot").checked().strip()
                left_paused += left == "paused"
                when = "once / was frozen" if instant is None else f"{instant:.2f} s into a hold"
                print(f"cut {when}, frozen: {frozen}; found {left}, booted in {machine.boot_seconds:.1f} s")
                _is_clean(machine)
            assert machine.run("app status").status == 0
        finally:
            machine.close()
    assert left_frozen, "no cut came while / was frozen: nothing was shown"
    assert left_paused, "no cut came while the application was paused: nothing was shown"


def _cut_during_hold(machine: Machine, instant: float | None, further: float) -> list[str]:
    """Cut the power so many seconds into a hold (None: into the freeze); what was frozen just before."""
    orders.start_server(machine)
    machine.run("rm -f /run/stillframe/journal").checked()
    orders.start_cycle(machine, orders.PAUSABLE + REHEARSAL)
    machine.run("until grep -qs begin /run/stillframe/journal; do sleep 0.05; done", 120).checked()
    if instant is None:
        events = orders.frozen_root(machine)
    else:
        time.sleep(instant)
        events = orders.journal(machine)
    time.sleep(further)
    machine.close()
    thawed = {e["mount"] for e in events if e["event"] == "thawed"}
    return [e["mount"] for e in events if e["event"] == "frozen" and e["mount"] not in thawed]


def _is_clean(machine: Machine) -> None:
    said = machine.run("cat /run/recover.out; exit $(cat /run/recover.status)")
    assert said.status == 0, said.output
    assert machine.run("orders-ctl status").checked().startswith("running"), said.output
    machine.run("[ ! -e /var/lib/stillframe/outstanding.json ]").checked()
    machine.run("echo x >/written && sync /written && echo x >/data/written && sync /data/written").checked()
