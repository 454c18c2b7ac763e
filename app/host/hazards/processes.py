"""Hazards that are processes: permission listeners, backup tools, and whoever waits at a frozen filesystem.

Sources: proc(5) (/proc/PID/stat, fd, fdinfo, syscall, stack); Documentation/filesystems/proc.rst,
"/proc/<pid>/fdinfo", section Fanotify files; include/uapi/linux/fanotify.h.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.host.hazards.hazard import Hazard
from app.host.hazards.scene import Process, Scene
from app.host.locks import EXTENSION_LOCK, lock_owner
from app.host.mounts import Mount

PERMISSION = 0x10000 | 0x20000 | 0x40000 | 0x100000
"""FAN_OPEN_PERM, FAN_ACCESS_PERM, FAN_OPEN_EXEC_PERM, FAN_PRE_ACCESS (since Linux 6.14)."""

BACKUP_TOOLS = frozenset(
    {
        "borg",
        "duplicity",
        "fsfreeze",
        "mariabackup",
        "mariadb-backup",
        "pg_basebackup",
        "pgbackrest",
        "restic",
        "rsnapshot",
        "xtrabackup",
    }
)
"""Names (comm, cut at 15 characters) of programs that run only while a backup does, so no daemons."""

GUEST_AGENT_FROZEN = ("/run/qga.state.isfrozen", "/var/run/qga.state.isfrozen")
"""Made by the QEMU guest agent while it has frozen filesystems (qga/main.c, state_filepath_isfrozen)."""

_WAITING = frozenset({"percpu_rwsem_wait", "__percpu_down_read", "percpu_down_read"})

_WRITERS = re.compile(
    r"(?:__)?(?:sb_start_(?:write|pagefault|intwrite)|vfs_|mnt_want_write|do_iter|do_(?:sys_)?ftruncate|file_)\w*"
    r"|\w*_page_mkwrite|\w*xfs_filemap_fault|xfs_write_fault"
)
"""Callers of sb_start_write() and its kin (include/linux/fs.h), which is inlined into them.

Other users of such a lock, as a fork that waits for a move between control groups, have other callers.
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a fanotify group watches: a mount by its id (or 0), else a filesystem or inode by its device."""

    mount: int
    device: str
    mask: int


def parse_fdinfo(text: str) -> list[Mark]:
    """The marks of a fanotify descriptor, in order; other lines are left out."""
    marks = []
    for line in text.split("\n"):
        if not line.startswith("fanotify ") or " mask:" not in line:
            continue
        facts = dict(word.split(":", 1) for word in line.split(" ")[1:] if ":" in word)
        try:
            device = int(facts.get("sdev", "0"), 16)
            mask, mount = int(facts["mask"], 16), int(facts.get("mnt_id", "0"), 16)
        except ValueError:
            continue
        # The kernel's own dev_t: twelve bits of major above twenty of minor.
        marks.append(Mark(mount, f"{device >> 20}:{device & 0xFFFFF}", mask))
    return marks


def parse_stack(text: str) -> bool:
    """Whether a kernel stack (/proc/PID/stack) is that of a writer who waits for a thaw."""
    calls = [match.group(1) for match in re.finditer(r"^\[<\w*>\] (\w+)", text, re.MULTILINE)]
    while calls and calls[0] in _WAITING:
        calls = calls[1:]
        if calls and _WRITERS.fullmatch(calls[0]):
            return True
    return False


def look(scene: Scene) -> Iterator[Hazard]:
    """Every hazard that is a process, in one pass over /proc."""
    waiting: dict[str, Hazard] = {}
    tools = {tool[:15] for tool in BACKUP_TOOLS}
    for process in scene.processes:
        if process.name in tools:
            yield Hazard(
                "backup-running",
                f"process {process.pid} ({process.name}) is a backup in progress",
                f"wait for it to end: tail --pid={process.pid} -f /dev/null",
                pid=process.pid,
            )
        if scene.freezing:
            yield from _listener(scene, process)
            if process.state == "D" and parse_stack(scene.read(f"/proc/{process.pid}/stack")):
                for hazard in _waiter(scene, process):
                    waiting.setdefault(hazard.mount, hazard)
    yield from waiting.values()
    yield from _agents(scene)


def _listener(scene: Scene, process: Process) -> Iterable[Hazard]:
    folder = f"{scene.machine}/proc/{process.pid}/fd"
    found: dict[str, Hazard] = {}
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return ()
    for name in descriptors:
        try:
            if os.readlink(f"{folder}/{name}") != "anon_inode:[fanotify]":
                continue
        except OSError:
            continue  # closed meanwhile
        for mark in parse_fdinfo(scene.read(f"/proc/{process.pid}/fdinfo/{name}")):
            device = scene.device_of_mount(mark.mount, process.pid) if mark.mount else mark.device
            mount = scene.frozen(device)
            if mount is not None and mark.mask & PERMISSION:
                found[device] = Hazard(
                    "fanotify",
                    f"process {process.pid} ({process.name}) is asked before files on {mount.path} may be "
                    "opened or read (fanotify permission events)",
                    f"stop it for the time of the backup: {_stop(scene, process)}",
                    pid=process.pid,
                    mount=mount.path,
                )
    return found.values()


def _stop(scene: Scene, process: Process) -> str:
    unit = re.search(r"/([^/\n]+\.service)$", scene.read(f"/proc/{process.pid}/cgroup"), re.MULTILINE)
    return f"systemctl stop {unit.group(1)}" if unit else f"kill {process.pid}"


def _waiter(scene: Scene, process: Process) -> Iterator[Hazard]:
    """Name the filesystem by the descriptor that the waiting call writes to, or the file that is mapped.

    A call that waits by a path (an open, an unlink) does not say which, even if a folder's descriptor
    comes first in it: then there is no finding.
    """
    call = scene.read(f"/proc/{process.pid}/syscall").split(" ")
    mount = _mapped(scene, process) if call[0] == "-1" else _written(scene, process, call[1:])
    if mount is not None:
        yield Hazard(
            "frozen-already",
            f"{mount.path} is frozen by somebody else: process {process.pid} ({process.name}) waits to write",
            f"end whatever froze it; if nobody knows, thaw it: fsfreeze --unfreeze {mount.path}",
            pid=process.pid,
            mount=mount.path,
        )


def _written(scene: Scene, process: Process, arguments: Sequence[str]) -> Mount | None:
    """The filesystem to be frozen that a call's descriptor writes to."""
    if not arguments or not re.fullmatch(r"0x[0-9a-f]{1,8}", arguments[0]):
        return None
    facts = scene.read(f"/proc/{process.pid}/fdinfo/{int(arguments[0], 16)}")
    flags = re.search(r"^flags:\s*([0-7]+)", facts, re.MULTILINE)
    if flags is None or not int(flags.group(1), 8) & (os.O_WRONLY | os.O_RDWR):
        return None
    identifier = re.search(r"^mnt_id:\s*(\d+)", facts, re.MULTILINE)
    return scene.frozen(scene.device_of_mount(int(identifier.group(1)), process.pid)) if identifier else None


def _mapped(scene: Scene, process: Process) -> Mount | None:
    """The filesystem to be frozen whose files a process outside any call writes to, as journald does.

    It waits in a page fault, which does not say where; but its shared mappings do, if all are on one.
    """
    maps = scene.read(f"/proc/{process.pid}/maps")
    devices = re.findall(r"^\S+ .w.s \S+ ([0-9a-f]+):([0-9a-f]+) [1-9]", maps, re.MULTILINE)
    found = {scene.frozen(f"{int(major, 16)}:{int(minor, 16)}") for major, minor in devices} - {None}
    return found.pop() if len(found) == 1 else None


def _agents(scene: Scene) -> Iterator[Hazard]:
    for path in GUEST_AGENT_FROZEN:
        if scene.freezing and scene.exists(path):
            yield Hazard(
                "frozen-already",
                f"the QEMU guest agent says that it has frozen this machine's filesystems ({path})",
                "let the host thaw them (virsh domfsthaw DOMAIN)",
                path=path,
            )
            break
    lock = f"{scene.extension}/{EXTENSION_LOCK}"
    try:
        owner = lock_owner(f"{scene.machine}{lock}")
    except OSError:
        return  # not ours to read
    if owner:
        yield Hazard(
            "extension-lock",
            f"process {owner} holds {lock}: the Azure Backup extension is freezing for another backup",
            f"wait for it to end: tail --pid={owner} -f /dev/null",
            pid=owner,
            path=lock,
        )
