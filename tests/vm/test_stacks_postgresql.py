"""PostgreSQL on a thin volume, its WAL on a mirror: one snapshot of all disks, proven in a second VM."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.vm import image, orders, postgresql, stacks
from tests.vm.image import Image, Unavailable
from tests.vm.machine import booted, folder

pytestmark = [pytest.mark.vm(form="full"), pytest.mark.slow, pytest.mark.timeout(900)]

POLICY = """\
version = 1
name = "orders"
extends = "postgresql"

[settings]
psql = "{psql}"

"""


def test_snapshot_of_a_server_on_two_stacks_proves(vm_image: Callable[[str], Image]) -> None:
    base = vm_image("ext4")
    try:
        with image.cache("ext4"):
            programs = postgresql.disk()
    except Unavailable as error:
        pytest.skip(str(error))
    with folder() as place:
        disks = {"root": base.root, "data": base.data, **stacks.blank(place), "programs": programs}
        with booted(base, disks) as machine:
            stacks.make(machine)
            postgresql.install(machine, "/dev/vdh")
            machine.run(postgresql.MADE).checked()
            postgresql.start(machine, postgresql.DATA)
            postgresql.start_writer(machine)
            psql = machine.run("echo /usr/lib/postgresql/*/bin/psql").checked().strip()
            cycle = orders.start_cycle(machine, POLICY.format(psql=psql) + orders.TAKEN_BY_HOST)
            assert machine.asked(during=cycle) == "take"
            acknowledged = {number for number, _ in list(machine.ledger)}
            snapshot = machine.snapshot()
            machine.tell("taken")
            report = orders.report(cycle)
            assert report["achieved"] == "application", report
            assert report["applications"][0]["saved"]["stop_lsn"]
            machine.wait_for_commits(2)
            with booted(base, snapshot) as second:
                stacks.assemble(second)
                second.run(
                    "mount -o ro /dev/vdh /usr/lib/server && install -d -o postgres /run/postgresql"
                ).checked()
                second.run(postgresql.RESTORED).checked()
                proof = second.run("app prove /etc/orders.toml --data /run/restored/main", 180)
                assert proof.status == 0, proof.output
                postgresql.start(second, "/run/restored/main")
                found = postgresql.committed(second)
                print(f"{len(acknowledged)} commits were acknowledged, {len(found)} found")
                assert acknowledged <= found, "acknowledged commits are missing"
