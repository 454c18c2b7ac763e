"""Hazards made by real daemons and mounts: found, heeded, and survived where a policy ignores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.vm import orders, units
from tests.vm.hazards import HOLD, LIMIT, doctor, held, in_time, made, policy, refused
from tests.vm.image import Image
from tests.vm.machine import Machine, booted

pytestmark = [pytest.mark.vm(form="full"), pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def guest(systemd_image: Callable[..., Image]) -> Iterator[Machine]:
    with booted(systemd_image("ext4")) as machine:
        yield machine


@pytest.fixture
def machine(guest: Machine) -> Machine:
    units.is_over(guest)
    return guest


def test_a_default_machine(machine: Machine) -> None:
    """A journal on /, swap in a file on it, our own binary and reports: nothing to be warned of."""
    policy(machine)
    assert machine.run("ls -d /var/log/journal/*").status == 0
    assert machine.run("swapon --show=NAME --noheadings").checked().strip() == "/swapfile"
    assert doctor(machine) == {}
    events, report, _ = held(machine)
    in_time(events)
    assert (report["achieved"], report["exit"], report["hazards"]) == ("filesystem", 0, [])


FAPOLICYD = """\
sed -i 's/^permissive.*/permissive = 1/' /etc/fapolicyd/fapolicyd.conf
systemctl start fapolicyd
pid=$(systemctl show --property=MainPID --value fapolicyd)
until grep -qs 'fanotify .*mask' /proc/$pid/fdinfo/*; do sleep 0.1; done
echo "$pid"
"""


def test_fapolicyd(machine: Machine) -> None:
    policy(machine)
    with made(machine, FAPOLICYD, "systemctl stop fapolicyd") as pid:
        found = doctor(machine)["fanotify"]
        assert (found["severity"], found["pid"]) == ("fatal", int(pid))
        assert found["cure"].endswith("systemctl stop fapolicyd.service")
        refused(machine, "fanotify")
        policy(machine, hazards='fanotify = "ignore"')
        events, report, _ = held(machine, "cat /etc/hostname")
        in_time(events)
        assert report["achieved"] == "filesystem"
    policy(machine)
    assert doctor(machine) == {}


NFS = """\
mkdir -p /data/shared /mnt/nfs /var/lib/nfs/v4recovery
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
mount | grep -q ' /proc/fs/nfsd ' || { modprobe nfsd; mount -t nfsd nfsd /proc/fs/nfsd; }
echo '/data/shared 127.0.0.1(rw,sync,no_root_squash,insecure,no_subtree_check,fsid=0)' >/etc/exports
exportfs -ra
systemd-run --quiet --unit=mountd rpc.mountd --foreground -N 3
rpc.nfsd -N 3 2
mount -i -t nfs4 -o vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1 127.0.0.1:/ /mnt/nfs
echo x >/mnt/nfs/file
"""

NFS_END = (
    "umount /mnt/nfs; exportfs -ua; rpc.nfsd 0; kill $(cat /run/rpc.mountd.pid 2>/dev/null); rm /etc/exports"
)


def test_nfs_server(machine: Machine) -> None:
    policy(machine)
    with made(machine, NFS, NFS_END):
        found = doctor(machine)["nfs-export"]
        assert (found["severity"], found["path"], found["filesystem"]) == ("warning", "/data/shared", "/data")
        assert "/proc/fs/nfsd/exports" in found["what"]
        assert "(exportfs -ua; after it exportfs -ra)" in found["cure"]
        events, report, waited = held(machine, "sh -c 'date >/mnt/nfs/file && sync /mnt/nfs/file'")
        in_time(events)
        assert waited > HOLD / 2, "an NFS client waits for the thaw"
        assert [h["name"] for h in report["hazards"]] == ["nfs-export"]
        machine.run("exportfs -ua").checked()
        assert doctor(machine) == {}, "cured"
        machine.run("exportfs -ra").checked()
        assert set(doctor(machine)) == {"nfs-export"}
    assert doctor(machine) == {}, "no server runs"


def audited(rules: str) -> str:
    return f"""\
printf '%s\\n' -D {rules} '-a always,exit -F arch=b64 -S execve' >/etc/audit/rules.d/audit.rules
augenrules --load >/dev/null
systemctl start auditd
systemctl show --property=MainPID --value auditd
"""


AUDIT_END = (
    "auditctl -f 1 >/dev/null; auditctl -D >/dev/null; systemctl kill -s KILL auditd; systemctl stop auditd"
)


@pytest.mark.parametrize(
    ("rules", "severity"),
    [("'-b 8192' '-f 1'", ""), ("'-b 64' '-f 1'", "warning"), ("'-b 64' '-f 2'", "fatal")],
    ids=["as shipped", "short of room", "panics"],
)
def test_auditd(machine: Machine, rules: str, severity: str) -> None:
    policy(machine)
    with made(machine, audited(rules), AUDIT_END) as pid:
        found = doctor(machine)
        assert set(found) == ({"auditd"} if severity else set())
        if severity:
            assert (found["auditd"]["severity"], found["auditd"]["pid"]) == (severity, int(pid))
        if severity == "fatal":
            refused(machine, "auditd")
            return
        policy(machine, hazards='auditd = "ignore"')
        # Asked by the shell alone: a program that it started would wait, too.
        script = f"""
        until [ "$waits" = percpu_rwsem_wait ] || [ -e /run/stalls.end ]; do
            read -r waits </proc/{int(pid)}/wchan
        done
        echo "$waits"
        """
        machine.run("rm -f /run/stalls.end").checked()
        daemon = machine.start(script, 240)
        events, report, _ = held(machine, "/bin/true")
        assert daemon.wait().output.strip() == "percpu_rwsem_wait", "it waits for the thaw"
        in_time(events)
        assert report["achieved"] == "filesystem"


def test_a_kernel_that_panics_for_auditd(systemd_image: Callable[..., Image]) -> None:
    """Why that is fatal: the machine goes down in the midst of the hold."""
    with booted(systemd_image("ext4")) as machine:
        rules = audited("'-b 64' '-f 2'")
        machine.run(f"set -e\n{rules}").checked()
        policy(machine, hazards='auditd = "ignore"', seconds=40)
        machine.run("rm -f /run/stalls.end; for n in 1 2 3; do stalls /bin/true & done >/dev/null")
        machine.start("app run /etc/volumes.toml", 240)
        machine.powered_off(240)
        console = machine.console()
        assert "Kernel panic - not syncing: audit" in console, console


def test_journald(machine: Machine) -> None:
    policy(machine, freeze="timeout = 200\n[timing]\nhold = 300")
    pid = int(units.settings(machine, "systemd-journald", "MainPID")["MainPID"])
    found = doctor(machine)["journald"]
    assert (found["severity"], found["pid"], found["path"]) == ("warning", pid, "/var/log/journal")
    policy(machine)
    events, report, waited = held(machine, "syslogger")
    in_time(events)
    assert waited > HOLD / 2, "who logs much waits for the thaw"
    assert report["achieved"] == "filesystem"
    machine.run("journalctl --sync").checked()
    assert int(units.settings(machine, "systemd-journald", "MainPID")["MainPID"]) == pid


OVERLAY = """\
mkdir -p /data/low /data/up /data/work /merged
modprobe overlay
mount -t overlay overlay -o lowerdir=/data/low,upperdir=/data/up,workdir=/data/work /merged
"""


def test_overlay_as_of_a_container(machine: Machine) -> None:
    policy(machine)
    with made(machine, OVERLAY, "umount /merged"):
        found = doctor(machine)["container-storage"]
        assert (found["severity"], found["filesystem"], found["path"]) == ("warning", "/data", "/merged")
        events, report, waited = held(machine, "sh -c 'date >/merged/file'")
        in_time(events)
        assert waited > HOLD / 2, "whoever writes in it waits for the thaw"
        assert report["achieved"] == "filesystem"


LOOP = """\
mkdir -p /inner
truncate -s 32M /data/inner.img
mkfs.ext4 -q -F /data/inner.img
modprobe loop
mount -o loop /data/inner.img /inner
"""

LOOP_END = "umount /inner && rm /data/inner.img"


def test_loop_file(machine: Machine) -> None:
    policy(machine, mounts=["/data"])
    with made(machine, LOOP, LOOP_END):
        found = doctor(machine)["loop-file"]
        assert (found["severity"], found["filesystem"], found["path"]) == (
            "warning",
            "/inner",
            "/data/inner.img",
        )
        events, report, waited = held(machine, "sh -c 'date >/inner/file && sync /inner/file'")
        in_time(events)
        assert waited > HOLD / 2, "its writers wait for the thaw"
        assert report["achieved"] == "filesystem"


WRITER = """\
systemd-run --quiet --unit=writer sh -c 'while :; do echo xxxxxxxxxxxxxxxx >>/inner/written; done'
"""


def test_loop_frozen_too_late(machine: Machine) -> None:
    """FIFREEZE hangs for real: it is given up, and the death of the holder gives it up at once."""
    policy(machine, mounts=["/data", "/inner"])
    with made(machine, LOOP, LOOP_END):
        found = doctor(machine)["loop-order"]
        assert (found["severity"], found["filesystem"]) == ("fatal", "/inner")
        refused(machine, "loop-order")
        policy(machine, mounts=["/data", "/inner"], hazards='loop-order = "ignore"')
        with made(machine, WRITER, "systemctl stop writer"):
            events, report, _ = held(machine)
            at = {(e["event"], e.get("mount")): e["t"] for e in events}
            undone = at["thawed", "/data"] - at["freeze_hung", "/inner"]
            print(f"given up, and thawed {undone:.2f} s after")
            assert undone < LIMIT
            assert at["thawed", "/inner"] - at["thawed", "/data"] < LIMIT
            assert (report["achieved"], report["exit"], report["stuck"]) == ("none", 6, [])
            machine.run("rm -f /run/stillframe/journal")
            cycle = machine.start("app run /etc/volumes.toml", 240)
            seconds = _killed_while_it_hangs(machine)
            print(f"writes {seconds:.2f} s after the holder was killed")
            assert seconds < LIMIT
            assert cycle.wait().status == 6
            frozen = [e["mount"] for e in orders.journal(machine) if e["event"] == "frozen"]
            assert "/inner" not in frozen, "it hung until the end"
            units.is_over(machine)


def _killed_while_it_hangs(machine: Machine) -> float:
    """Kill the holder while a write waits on the data disk; seconds until that went on."""
    struck = machine.run(
        """
        journal=/run/stillframe/journal
        rm -f /run/thawed.now
        # That /data is frozen is noted once /inner is, too.
        until grep -qs '"freezing","mount":"/inner"' $journal; do sleep 0.05; done
        sleep 0.5
        holder=$(sed -n 's/.*"role":"holder","pid":\\([0-9]*\\).*/\\1/p' $journal)
        { echo x >/data/probe; read -r now _ </proc/uptime; echo "$now" >/run/thawed.now; } &
        sleep 0.5
        [ ! -e /run/thawed.now ] || exit 9
        read -r start _ </proc/uptime
        kill -KILL "$holder"
        wait $!
        echo "$start" $(cat /run/thawed.now)
        """,
        240,
    )
    assert struck.status == 0, orders.journal(machine)
    begun, thawed = map(float, struck.output.split())
    return thawed - begun


VFAT = """\
truncate -s 16M /run/efi.img
mkfs.vfat /run/efi.img >/dev/null
mkdir -p /efi
modprobe loop
modprobe vfat
mount -o loop /run/efi.img /efi
"""


def test_filesystem_without_freeze(machine: Machine) -> None:
    policy(machine, mounts=["/data", "/efi"])
    with made(machine, VFAT, "umount /efi; rm /run/efi.img"):
        found = doctor(machine)["no-freeze-support"]
        assert (found["severity"], found["filesystem"]) == ("fatal", "/efi")
        refused(machine, "no-freeze-support")
        policy(machine, mounts=["/data", "/efi"], hazards='no-freeze-support = "ignore"')
        _, report, _ = held(machine)
        assert (report["exit"], report["achieved"], report["stuck"]) == (6, "none", [])
        assert "/efi: FIFREEZE failed: Operation not supported" in " ".join(report["because"])


def test_frozen_by_somebody_else(machine: Machine) -> None:
    """The freeze of another stands; who waits for it is named: here journald, by itself."""
    policy(machine)
    with made(machine, "fsfreeze --freeze /", "fsfreeze --unfreeze /"):
        machine.run("logger x").checked()
        pid = int(units.settings(machine, "systemd-journald", "MainPID")["MainPID"])
        machine.run(f"until grep -q 'State:.D' /proc/{pid}/status; do sleep 0.05; done").checked()
        found = doctor(machine)["frozen-already"]
        assert (found["severity"], found["pid"], found["filesystem"]) == ("fatal", pid, "/")
    policy(machine, mounts=["/data"])
    with made(machine, "fsfreeze --freeze /data", "fsfreeze --unfreeze /data"):
        assert doctor(machine) == {}, "nobody waits yet"
        events, report, _ = held(machine)
        assert (report["exit"], report["achieved"]) == (5, "none")
        assert "already frozen by somebody else (EBUSY)" in " ".join(report["because"])
        assert not [e for e in events if e["event"] == "frozen"]
        assert machine.run("fsfreeze --freeze /data").status == 1, "theirs to thaw, and still frozen"


LOCK = "/etc/azure/MicrosoftRecoverySvcsSafeFreezeLock/SafeFreezeLockFile"

LOCKED = f"""\
mkdir -p {LOCK.rpartition("/")[0]}
rm -f /run/locker.ready
systemd-run --quiet --unit=locker locker {LOCK}
until [ -e /run/locker.ready ]; do sleep 0.05; done
systemctl show --property=MainPID --value locker
"""


def test_lock_of_the_extension(machine: Machine) -> None:
    units.serve_orders(machine)
    with made(machine, LOCKED, "systemctl stop locker") as pid:
        found = doctor(machine, "")["extension-lock"]
        assert (found["severity"], found["pid"], found["path"]) == ("fatal", int(pid), LOCK)
        machine.run("rm -f /run/stillframe/journal")
        assert machine.run("sh /etc/azure/stillframe/pre.sh", 120).status == 4
        assert f"extension-lock: process {int(pid)} " in machine.run("cat /var/log/stillframe/pre.log").output
        assert machine.run("[ -e /run/stillframe/journal ]").status == 1
        assert machine.run("orders-ctl status").checked().startswith("running")
    assert "extension-lock" not in doctor(machine, "")


RESTIC = """\
export RESTIC_PASSWORD=secret
[ -d /data/restic ] || restic --repo /data/restic init >/dev/null
rm -f /run/feed; mkfifo /run/feed
setsid restic --repo /data/restic backup --stdin </run/feed >/dev/null 2>&1 3>&- &
sleep 600 >/run/feed &
echo $! >/run/feeder.pid
until [ -n "$(ls /data/restic/locks)" ]; do sleep 0.1; done
"""

RESTIC_END = 'kill $(cat /run/feeder.pid); until [ -z "$(ls /data/restic/locks)" ]; do sleep 0.1; done'


def test_another_backup_tool(machine: Machine) -> None:
    """restic, with its lock on what is frozen; it goes on afterwards."""
    policy(machine)
    with made(machine, RESTIC, RESTIC_END):
        found = doctor(machine)["backup-running"]
        name = machine.run(f"cat /proc/{found['pid']}/comm").checked().strip()
        assert (found["severity"], name) == ("warning", "restic")
        events, report, _ = held(machine)
        in_time(events)
        assert report["achieved"] == "filesystem"
        assert [h["name"] for h in report["hazards"]] == ["backup-running"]
    assert doctor(machine) == {}


HOG = "perl -e '$x = q(x) x 380_000_000; sleep 30'"


def test_swap_on_a_frozen_filesystem(machine: Machine) -> None:
    """No hazard: the kernel swaps past the filesystem."""
    policy(machine, seconds=20)
    swapped = machine.start(
        "until grep -qs snapshot_begin /run/stillframe/journal; do sleep 0.05; done; "
        f"timeout 15 {HOG} & sleep 14; grep ^SwapFree /proc/meminfo; wait",
        240,
    )
    before = machine.run("grep ^SwapFree /proc/meminfo").checked()
    events, report, _ = held(machine)
    during = swapped.wait().output
    print(before.strip(), during.strip())
    assert int(during.split()[1]) < int(before.split()[1]), "nothing was swapped: nothing was shown"
    in_time(events)
    assert report["achieved"] == "filesystem"
