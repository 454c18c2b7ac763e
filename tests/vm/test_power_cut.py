"""Power is cut at any instant of a hold: the next boot ends clean, without a hand.

The application is one whose pause survives a reboot, so that a hold which was cut off leaves it
paused on disk: ``app recover``, run at boot, must have resumed it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.vm import orders
from tests.vm.conftest import FULL
from tests.vm.image import Image
from tests.vm.machine import Disks, Machine, folder

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(1800)]

KINDS = ("ext4", "xfs") if FULL else ("ext4",)

CUTS = 20 if FULL else 3

HOLD = 3.0

SPAN = HOLD + 2.0
"""Seconds from a hold's first event to its last, about: an emulated VM takes two for the rest."""

REHEARSAL = f"""\
[snapshot]
provider = "none"
seconds = {HOLD}
"""


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut, and the boot after it.

    ``into``: seconds since the hold's first event, None: once / was frozen. ``reached``: the last event
    that the host heard of. ``frozen``: mounts that were frozen then. ``found``: what the application was on
    the disk, before anything of ours ran. ``boot``: seconds.
    """

    into: float | None
    reached: str
    frozen: tuple[str, ...]
    found: str
    boot: float

    def __str__(self) -> str:
        when = "/ frozen" if self.into is None else f"{self.into:5.2f} s  "
        frozen = " ".join(self.frozen) or "nothing"
        return f"{when}  {self.reached:15} {frozen:8}  {self.found:8} {self.boot:4.1f}"


def test_every_next_boot_is_clean(vm_image: Callable[[str], Image]) -> None:
    images = [vm_image(kind) for kind in KINDS]
    seed = int(os.environ.get("STILLFRAME_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"STILLFRAME_TEST_SEED={seed}\n          cut at  last event      frozen   found    boot, s")
    stop = threading.Event()
    with ThreadPoolExecutor(len(images)) as executor:
        # One VM keeps little more than one processor busy.
        running = [executor.submit(_series, image, f"{seed} {image.kind}", stop) for image in images]
        try:
            for future in running:
                cuts = future.result()
                assert len(cuts) == CUTS
                assert any(cut.frozen for cut in cuts), "no cut came while / was frozen: nothing was shown"
                assert any(cut.found == "paused" for cut in cuts), (
                    "no cut came while the application was paused"
                )
        finally:
            stop.set()


def _series(image: Image, seed: str, stop: threading.Event) -> list[Cut]:
    """Cut, boot, look whether all is clean, again and again on the same disks."""
    chance = random.Random(seed)
    cuts: list[Cut] = []
    with folder() as place:
        disks = Disks(place, {"root": image.root, "data": image.data}, image.kind)
        machine = Machine(image, disks)
        try:
            while len(cuts) < CUTS and not stop.is_set():
                # One in each part of the span, so that a few cuts cover it too; the last within the
                # freeze for certain, however slow the machine is.
                into = (len(cuts) + chance.random()) / CUTS * SPAN if len(cuts) + 1 < CUTS else None
                events = _cut_during_hold(machine, into, chance.uniform(0, 0.3))
                machine = Machine(image, disks)
                left = _is_clean(machine)
                thawed = {e["mount"] for e in events if e["event"] == "thawed"}
                frozen = [e["mount"] for e in events if e["event"] == "frozen" and e["mount"] not in thawed]
                cuts.append(Cut(into, events[-1]["event"], tuple(frozen), left, machine.boot_seconds))
                print(f"{image.kind:4} {len(cuts):2}  {cuts[-1]}", flush=True)
            assert machine.run("app status").status == 0
        finally:
            machine.close()
    return cuts


def _cut_during_hold(machine: Machine, into: float | None, further: float) -> list[dict[str, Any]]:
    """Cut the power so many seconds into a hold (None: into the freeze); its events until just before."""
    orders.start_server(machine)
    machine.run("rm -f /run/stillframe/journal").checked()
    orders.start_cycle(machine, orders.PAUSABLE + REHEARSAL)
    orders.awaited(machine, "grep -qs begin journal")
    if into is None:
        events = orders.frozen_root(machine)
    else:
        time.sleep(into)
        events = orders.journal(machine)
    time.sleep(further)
    machine.close()
    return events


def _is_clean(machine: Machine) -> str:
    """Everything runs again, and no hand was in it. What the application was before anything of ours ran."""
    said = machine.run("cat /run/recover.out; exit $(cat /run/recover.status)")
    assert said.status == 0, said.output
    return (
        machine.run(
            """
        exec 2>&1
        set -e
        [ ! -e /var/lib/stillframe/outstanding.json ]
        case $(orders-ctl status) in running*) ;; *) exit 9 ;; esac
        echo x >/written && sync /written
        echo x >/data/written && sync /data/written
        cat /run/found-at-boot
        """
        )
        .checked()
        .strip()
    )
