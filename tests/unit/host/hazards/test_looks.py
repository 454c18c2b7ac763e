"""Each hazard, in a machine that is a folder of fixture text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from app.errors import HostUnfit
from app.host import hazards
from app.host.hazards import FATAL, IGNORE, KINDS, WARNING, Hazard, Scene, demand, find
from app.host.mounts import parse_mountinfo
from app.paths import Paths

MOUNTS = r"""20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 8:2 / /srv rw - xfs /dev/sda2 rw
22 21 8:3 / /srv/deep rw - ext4 /dev/sda3 rw
23 20 0:30 / /run rw - tmpfs tmpfs rw
24 20 8:2 /sub /bind rw - xfs /dev/sda2 rw
25 20 7:3 / /image rw - ext4 /dev/loop3 rw
26 20 8:9 / /old ro - ext4 /dev/sda9 ro
27 20 8:8 / /boot/efi rw - vfat /dev/sda8 rw
"""


class Machine:
    """A folder that stands for a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        file = Path(f"{self.root}{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def process(self, pid: int, name: str, state: str = "S", fanotify: str = "") -> None:
        self.write(f"/proc/{pid}/stat", f"{pid} ({name}) {state} 1 1")
        folder = Path(f"{self.root}/proc/{pid}/fd")
        folder.mkdir()
        (folder / "0").symlink_to("/dev/null")
        if fanotify:
            (folder / "5").symlink_to("anon_inode:[fanotify]")
            self.write(f"/proc/{pid}/fdinfo/5", f"pos:\t0\nfanotify flags:4 event-flags:0\n{fanotify}\n")

    def scene(self, *freezing: str, mounts: str = MOUNTS, **more: Any) -> Scene:
        every = parse_mountinfo(mounts)
        chosen = [mount for path in freezing for mount in every if mount.path == path]
        values: dict[str, Any] = {"timeout": 60.0, "machine": str(self.root), **more}
        return Scene(freezing=chosen, mounts=every, paths=Paths("/run/sf", "/l", "/g"), **values)

    def find(self, *freezing: str, **more: Any) -> dict[str, Hazard]:
        return {hazard.name: hazard for hazard in find(self.scene(*freezing, **more), {})}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_empty_machine_has_none(machine: Machine) -> None:
    assert machine.find("/srv") == {}
    assert machine.find() == {}


@pytest.mark.parametrize(
    "mark",
    [
        "fanotify mnt_id:15 mflags:0 mask:10000 ignored_mask:0",
        "fanotify mnt_id:18 mflags:0 mask:20000 ignored_mask:0",
        "fanotify sdev:800002 mflags:0 mask:40000 ignored_mask:0",
        "fanotify ino:2 sdev:800002 mflags:0 mask:100000 ignored_mask:0",
    ],
    ids=["mount", "other mount of it", "filesystem", "inode"],
)
def test_permission_listener(machine: Machine, mark: str) -> None:
    machine.process(77, "fapolicyd", fanotify=mark)
    machine.write("/proc/77/cgroup", "0::/system.slice/fapolicyd.service\n")
    found = machine.find("/srv")["fanotify"]
    assert (found.severity, found.pid, found.mount) == (FATAL, 77, "/srv")
    assert found.cure.endswith("systemctl stop fapolicyd.service")


def test_listener_that_is_none_of_ours(machine: Machine) -> None:
    machine.process(77, "watcher", fanotify="fanotify mnt_id:15 mflags:0 mask:38 ignored_mask:0")
    machine.process(78, "elsewhere", fanotify="fanotify mnt_id:14 mflags:0 mask:10000 ignored_mask:0")
    assert machine.find("/srv") == {}


def test_listener_in_another_mount_namespace(machine: Machine) -> None:
    machine.process(77, "scanner", fanotify="fanotify mnt_id:3e7 mflags:0 mask:10000 ignored_mask:0")
    assert machine.find("/srv") == {}
    machine.write("/proc/77/mountinfo", "999 1 8:2 / /host rw - xfs /dev/sda2 rw\n")
    assert machine.find("/srv")["fanotify"].cure.endswith("kill 77")


def test_frozen_by_somebody_else(machine: Machine) -> None:
    machine.process(77, "writer", "D")
    machine.write("/proc/77/stack", "[<0>] percpu_rwsem_wait+0x1/0x2\n[<0>] vfs_write+0x1/0x2\n")
    machine.write("/proc/77/syscall", "1 0x3 0xa5f170 0x1 0x0 0x0 0x0 0x0 0x0\n")
    machine.write("/proc/77/fdinfo/3", "pos:\t0\nflags:\t02\nmnt_id:\t24\n")
    found = machine.find("/srv")["frozen-already"]
    assert (found.severity, found.pid, found.mount) == (FATAL, 77, "/srv")
    assert machine.find("/") == {}
    machine.write("/proc/77/syscall", "257 0xffffff9c 0x5649 0x241 0x1b6 0x0 0x0 0x0 0x0\n")
    assert machine.find("/srv") == {}, "an open does not say where"
    machine.write("/proc/77/syscall", "263 0x3 0x5649 0x0 0x1b6 0x0 0x0 0x0 0x0\n")
    machine.write("/proc/77/fdinfo/3", "pos:\t0\nflags:\t0200000\nmnt_id:\t24\n")
    assert machine.find("/srv") == {}, "a folder's descriptor is only where the way begins"


def test_frozen_by_somebody_else_beneath_a_mapped_file(machine: Machine) -> None:
    machine.process(77, "systemd-journal", "D")
    machine.write("/proc/77/stack", "[<0>] percpu_rwsem_wait+0x1/0x2\n[<0>] ext4_page_mkwrite+0x1/0x2\n")
    machine.write("/proc/77/syscall", "-1 0x7ffff4485cf8 0x7f60d4543868\n")
    ours = "7f60d46e3000-7f60d46e5000 rw-s 00000000 08:02 12                  /srv/system.journal\n"
    others = "7f60d46e5000-7f60d46e6000 rw-s 00000000 00:01 13                 /dev/zero (deleted)\n"
    machine.write("/proc/77/maps", ours + others + ours.replace("rw-s", "r--s").replace("08:02", "08:01"))
    assert machine.find("/srv")["frozen-already"].pid == 77
    assert machine.find("/") == {}
    machine.write("/proc/77/maps", ours + ours.replace("08:02", "08:01"))
    assert machine.find("/srv", "/") == {}, "it may be either"


def test_guest_agent_that_froze(machine: Machine) -> None:
    machine.write("/run/qga.state.isfrozen", "")
    assert machine.find("/srv")["frozen-already"].severity == FATAL
    assert machine.find() == {}


@pytest.mark.parametrize("name", ["borg", "restic", "xtrabackup", "mariadb-backup", "fsfreeze"])
def test_another_backup(machine: Machine, name: str) -> None:
    machine.process(77, name[:15])
    found = machine.find()["backup-running"]
    assert (found.severity, found.pid) == (WARNING, 77)


def loop(machine: Machine, file: str) -> None:
    machine.write("/sys/block/loop3/loop/backing_file", f"{file}\n")
    machine.write("/sys/block/loop3/dev", "7:3\n")


def test_loop_file_on_a_filesystem_to_freeze(machine: Machine) -> None:
    loop(machine, "/srv/images/a b.img (deleted)")
    found = machine.find("/srv")["loop-file"]
    assert (found.severity, found.path, found.mount) == (WARNING, "/srv/images/a b.img", "/image")
    assert machine.find("/srv/deep") == {}


def test_loop_frozen_no_sooner_than_what_it_lies_on(machine: Machine) -> None:
    loop(machine, "/srv/image")
    assert machine.find("/image", "/srv")["loop-order"].severity == FATAL
    deeper = MOUNTS.replace(" /image ", " /srv/a/b ")
    assert machine.find("/srv/a/b", "/srv", mounts=deeper) == {}


def test_loop_beneath_partitions_and_volumes(machine: Machine) -> None:
    loop(machine, "/srv/image")
    machine.write("/sys/block/loop3/dev", "7:48\n")
    machine.write("/sys/block/loop3/loop3p1/dev", "259:1\n")
    Path(f"{machine.root}/sys/block/loop3/loop3p1/holders/dm-0").mkdir(parents=True)
    machine.write("/sys/block/dm-0/dev", "253:0\n")
    machine.write("/sys/block/dm-0/dm/name", "vg-data\n")
    on_top = MOUNTS.replace(
        "7:3 / /image rw - ext4 /dev/loop3", "0:77 / /image rw - btrfs /dev/mapper/vg-data"
    )
    assert machine.find("/srv", mounts=on_top)["loop-file"].mount == "/image"


def test_kinds_that_the_kernel_cannot_freeze(machine: Machine) -> None:
    found = machine.find("/boot/efi", "/old")
    assert found["no-freeze-support"].severity == FATAL
    assert found["read-only"].severity == WARNING


def test_frozen_upon_skipped(machine: Machine) -> None:
    assert machine.find("/srv/deep", skip=("/srv/",))["nested-mount"].severity == WARNING
    assert machine.find("/srv/deep") == {}
    whole = MOUNTS.replace("8:2 /sub /bind", "8:2 / /bind")
    assert machine.find("/srv/deep", skip=("/bind",), mounts=whole)["nested-mount"].mount == "/srv/deep"


def test_skip_of_a_part_of_a_filesystem(machine: Machine) -> None:
    found = machine.find("/srv/deep", "/srv", skip=("/bind/",))
    assert found.keys() == {"skip-part"}
    assert (found["skip-part"].path, found["skip-part"].mount) == ("/bind", "/srv")


def test_filesystem_that_no_path_leads_to(machine: Machine) -> None:
    over = f"{MOUNTS}28 21 8:5 / /srv rw - ext4 /dev/sda5 rw\n".replace("8:2 /sub", "8:6 /sub")
    # /srv/deep lies on the hidden /srv: both are.
    every = {h.path for h in find(machine.scene("/", mounts=over), {}) if h.name == "hidden-mount"}
    assert every == {"/srv", "/srv/deep"}
    assert machine.find("/", mounts=over.replace("8:6 /sub", "8:2 /sub"))["hidden-mount"].path == "/srv/deep"


def test_container_storage(machine: Machine) -> None:
    layers = "lowerdir=/low,upperdir=/srv/deep/up,workdir=/srv/deep/work"
    mounts = f"{MOUNTS}28 20 0:50 / /srv/merged rw - overlay overlay rw,{layers}\n"
    machine.write("/run/docker.sock", "")
    found = machine.find("/srv/deep", mounts=mounts)["container-storage"]
    assert (found.severity, found.path, found.mount) == (WARNING, "/srv/merged", "/srv/deep")
    assert "docker" in found.what


@pytest.mark.parametrize("file", ["/etc/exports", "/etc/exports.d/a.exports", "/proc/fs/nfsd/exports"])
@pytest.mark.parametrize("path", ["/srv", "/srv/folder", "/bind"])
def test_nfs_export(machine: Machine, file: str, path: str) -> None:
    machine.write(file, f"{path}\t*(rw,sync)\n")
    assert machine.find("/srv")["nfs-export"].path == path
    assert machine.find("/srv/deep").keys() <= {"nfs-export"}
    machine.write("/proc/fs/nfsd/threads", "0\n")
    assert machine.find("/srv") == {}
    machine.write("/proc/fs/nfsd/threads", "8\n")
    configured = file.startswith("/etc/")
    assert set(machine.find("/srv")) == (set() if configured else {"nfs-export"}), (
        "taken back, still configured"
    )


@pytest.mark.parametrize(
    ("settings", "rules", "severity"),
    [
        ("", "-b 8192\n-f 1", ""),
        ("flush = SYNC", "-b 8192", ""),
        ("", "-b 64\n-f 1", WARNING),
        ("", "", WARNING),
        ("", "-b 8192\n-f 2", WARNING),
        ("", "-b 64\n-f 2", FATAL),
        ("write_logs = no", "-f 2", ""),
        ("log_file = /run/audit.log", "-f 2", ""),
    ],
)
def test_auditd(machine: Machine, settings: str, rules: str, severity: str) -> None:
    machine.write("/etc/audit/auditd.conf", settings)
    machine.write("/etc/audit/audit.rules", rules)
    assert machine.find("/") == {}, "it is not running"
    machine.process(77, "auditd")
    found = machine.find("/")
    assert {name: hazard.severity for name, hazard in found.items()} == (
        {"auditd": severity} if severity else {}
    )


def test_a_policy_outranks_what_a_finding_says_of_itself(machine: Machine) -> None:
    machine.write("/etc/audit/audit.rules", "-f 2")
    machine.process(77, "auditd")
    scene = machine.scene("/")
    assert [h.severity for h in find(scene, {})] == [FATAL]
    assert [h.severity for h in find(scene, {"auditd": WARNING})] == [WARNING]
    assert find(scene, {"auditd": IGNORE}) == []


@pytest.mark.parametrize(
    ("settings", "timeout", "told"),
    [
        ("Storage=persistent", 60, False),
        ("Storage=persistent\nSyncIntervalSec=30s", 60, False),
        ("Storage=persistent", 200, True),
        ("Storage=volatile", 200, False),
        ("", 200, False),
    ],
)
def test_journald(machine: Machine, settings: str, timeout: float, told: bool) -> None:
    machine.process(77, "systemd-journal")
    machine.write("/etc/systemd/journald.conf", f"[Journal]\n{settings}\n")
    assert set(machine.find("/", timeout=timeout)) == ({"journald"} if told else set())


def test_a_drop_in_of_journald_counts(machine: Machine) -> None:
    machine.process(77, "systemd-journal")
    machine.write("/etc/systemd/journald.conf", "[Journal]\nStorage=persistent\n")
    assert set(machine.find("/", timeout=200)) == {"journald"}
    machine.write("/etc/systemd/journald.conf.d/b.conf", "[Journal]\nStorage=volatile\n")
    assert machine.find("/", timeout=200) == {}
    machine.write("/usr/lib/systemd/journald.conf.d/c.conf", "[Journal]\nStorage=persistent\n")
    assert set(machine.find("/", timeout=200)) == {"journald"}


def test_dirty_pages(machine: Machine) -> None:
    machine.write("/proc/meminfo", "Dirty: 2000000 kB\nWriteback: 2000000 kB\n")
    found = machine.find("/srv", unwritten=True)["dirty-pages"]
    assert found.what == "4096 MB wait to be written, 68 s at 60 MB/s; the freeze may last 60 s"
    assert machine.find("/srv", timeout=70) == {}
    assert machine.find() == {}


def test_where_the_journal_is(machine: Machine) -> None:
    disk = MOUNTS.replace("0:30 / /run rw - tmpfs tmpfs", "8:7 / /run rw - ext4 /dev/sda7")
    assert machine.find("/run", mounts=disk)["journal-frozen"].severity == FATAL
    assert machine.find("/srv", mounts=disk)["run-on-disk"].severity == WARNING


def test_a_full_run_folder(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs("/")
    full = os.statvfs_result((4096, 4096, 10, 0, 0, *tuple(real)[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    assert machine.find("/srv")["run-full"].severity == WARNING


def test_severity_is_the_policys_unless_a_law_depends_on_it(machine: Machine) -> None:
    disk = MOUNTS.replace("0:30 / /run rw - tmpfs tmpfs", "8:7 / /run rw - ext4 /dev/sda7")
    machine.process(77, "borg")
    scene = machine.scene("/run", "/boot/efi", mounts=disk)
    chosen = {"journal-frozen": IGNORE, "no-freeze-support": IGNORE, "backup-running": FATAL}
    assert [(h.name, h.severity) for h in find(scene, chosen)] == [
        ("journal-frozen", FATAL),
        ("backup-running", FATAL),
    ]
    assert "journal-frozen" not in hazards.changeable()


def test_fatal_ones_come_first_and_all_are_named(machine: Machine) -> None:
    machine.process(77, "borg")
    found = find(machine.scene("/boot/efi", "/old"), {"read-only": FATAL})
    assert [h.severity for h in found] == [FATAL, FATAL, WARNING]
    with pytest.raises(HostUnfit) as caught:
        demand(found)
    assert "no-freeze-support: " in str(caught.value)
    assert "read-only: " in str(caught.value)
    assert "borg" not in str(caught.value)
    demand([h for h in found if h.severity == WARNING])


def test_facts_are_json_and_never_a_filesystem_of_the_report(machine: Machine) -> None:
    machine.process(77, "borg")
    facts = machine.find()["backup-running"].facts()
    assert json.loads(json.dumps(facts))["pid"] == 77
    # The report takes whatever has a mount for a filesystem that was to be frozen.
    assert "mount" not in facts
    assert set(KINDS) >= {facts["name"]}


def test_every_hazard_stands_in_the_readme_with_its_default() -> None:
    lines = (Path(__file__).resolve().parents[4] / "README.md").read_text(encoding="utf-8").splitlines()
    for name, kind in KINDS.items():
        row = next(line for line in lines if line.startswith("| `") and f"`{name}`" in line.split("|")[1])
        assert row.split("|")[2].strip().startswith(kind.severity), name
