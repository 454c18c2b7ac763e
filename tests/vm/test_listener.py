"""A freeze that hangs because of a virus scanner: its log lies on what is frozen already.

Whoever truncates a file on the scanned filesystem waits for the scanner with the right to write in hand
(mnt_want_write() comes before the file is opened, and with it the question), the scanner waits for its log,
and FIFREEZE waits, where nothing can interrupt it, for everybody who has that right.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.vm import orders
from tests.vm.image import Image
from tests.vm.machine import Machine, booted, folder

pytestmark = [pytest.mark.vm(form="full"), pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = 2.0
"""Seconds within which all that can be undone is undone, after a freeze was given up."""

LOG_DISK = """\
mkfs.ext4 -q /dev/vdc
mount /dev/vdc /var/log
mkdir -m 700 /var/log/stillframe
scanner /var/log/scanner.log /data </dev/null >/run/scanner.out 2>&1 3>&- &
until grep -qs fanotify /proc/$!/fdinfo/*; do sleep 0.1; done
echo "$!"
"""

OPENER = "while :; do : >/data/truncated; done"
"""Several of them, so that at any instant some wait for the scanner."""

REHEARSAL = """\
[snapshot]
provider = "none"
seconds = 1
"""

WARNED = """\
[hazards]
fanotify = "warning"

"""


def test_freeze_that_hangs_on_a_permission_listener(vm_image: Callable[[str], Image]) -> None:
    image = vm_image("ext4")
    with folder() as place:
        log = place / "log.img"
        with log.open("wb") as file:
            file.truncate(64 << 20)
        with booted(image, {"root": image.root, "data": image.data, "log": log}) as machine:
            scanner = int(machine.run(f"set -e; {LOG_DISK}").checked())
            orders.start_server(machine)
            _is_refused(machine, scanner)
            _is_undone(machine, scanner)


def _is_refused(machine: Machine, scanner: int) -> None:
    """By default: the hazard is found before anything is quiesced."""
    answer = orders.start_cycle(machine, orders.PAUSABLE + REHEARSAL).wait()
    said = machine.run("cat /run/run.err").checked()
    assert answer.status == 4, said
    assert "fanotify" in said
    assert str(scanner) in said
    assert orders.journal(machine) == []


def _is_undone(machine: Machine, scanner: int) -> None:
    """Where the operator takes the risk: the freeze hangs, and all else goes on within two seconds."""
    begin = f"setsid sh -c '{OPENER}' </dev/null >/dev/null 2>&1 3>&- & echo $!"
    openers = machine.run("\n".join([begin] * 3)).checked().split()
    machine.run("until [ -e /data/truncated ]; do sleep 0.1; done").checked()
    cycle = orders.start_cycle(machine, orders.PAUSABLE + WARNED + REHEARSAL)
    report = orders.report(cycle)
    events = orders.journal(machine)
    at = {(e["event"], e.get("mount") or e.get("app")): e["t"] for e in events}
    assert [e["mount"] for e in events if e["event"] == "freeze_hung"] == ["/data"], events
    hung = at["freeze_hung", "/data"]
    thawed, undone = at["thawed", "/var/log"] - hung, at["released", "orders"] - hung
    programs = orders.seconds_of_steps(events, hung)
    print(f"given up after {hung - at['freezing', '/data']:.1f} s; then thawed after {thawed:.2f} s, "
          f"released after {undone:.2f} s, {programs:.2f} s of it in its own programs")  # fmt: skip
    assert at["frozen", "/var/log"] < at["freezing", "/data"]
    assert 0 < thawed < LIMIT
    assert 0 < undone - programs < LIMIT
    # The scanner goes on once its log does, so that FIFREEZE comes back: its own thread undoes it.
    assert 0 < at["thawed", "/data"] - at["thawed", "/var/log"] < LIMIT
    assert report["achieved"] == "none"
    assert report["stuck"] == []
    assert report["exit"] == 6
    found = next(h for h in report["hazards"] if h["name"] == "fanotify")
    assert (found["pid"], found["filesystem"]) == (scanner, "/data")
    reasons = "\n".join(report["because"])
    assert "/data" in reasons
    assert f"process {scanner} (scanner)" in reasons, "the report names the cause"
    size = "stat --format %s /var/log/scanner.log"
    machine.run(f"size=$({size}); until [ $({size}) -gt $size ]; do sleep 0.1; done").checked()
    machine.run(f"kill {' '.join(openers)} && echo x >/written && sync /written", 10).checked()
    assert machine.run("orders-ctl status").checked().startswith("running")
    assert machine.run("app status").status == 0
