"""What can be seen of a machine from outside its servers. Reads only, and not for ever.

Nothing that is found is trusted: names and paths are what somebody else's process has made of them.

Sources: proc_pid_cmdline(5), proc_pid_status(5), proc_pid_fd(5), proc_pid_cgroup(5); proc_net(5) on
/proc/net/tcp and /proc/net/unix; Documentation/networking/proc_net_tcp.rst of the kernel; dpkg(1) on
/var/lib/dpkg/status.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

MOST_PROCESSES = 20_000
MOST_DESCRIPTORS = 200_000
LARGEST_FILE = 16 << 20
"""Bytes that are read of any one file."""

_WANTED = r"(Package|Status|Version): "
_LISTENING_TCP = "0A"
_ACCEPTS = 0x10000
"""__SO_ACCEPTCON in the flags of /proc/net/unix."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process. ``exe`` is "" where it cannot be read; ``unit`` the systemd unit that it belongs to."""

    pid: int
    parent: int
    uid: int
    argv: tuple[str, ...]
    exe: str
    unit: str
    container: str

    @property
    def name(self) -> str:
        """What the program is called: by its file, else by its first argument."""
        first = self.argv[0].split(" ")[0] if self.argv else ""
        return os.path.basename(self.exe or first).removesuffix(" (deleted)")

    @property
    def title(self) -> str:
        """The program by its first argument: servers write more than a path into it."""
        return os.path.basename(self.argv[0].split(" ")[0]).rstrip(":") if self.argv else ""

    @property
    def user(self) -> str:
        """Name of the OS user, or "" if the number has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return ""

    def option(self, *names: str) -> str:
        """The value of ``--name value`` or ``--name=value`` among the arguments, or ""."""
        for index, word in enumerate(self.argv):
            for name in names:
                if word == name and index + 1 < len(self.argv):
                    return self.argv[index + 1]
                if word.startswith(f"{name}="):
                    return word.removeprefix(f"{name}=")
        return ""


@dataclass(slots=True)
class Sight:
    """A machine that runs (``root`` empty), or an image below ``root``.

    ``ports`` and ``sockets`` are what a process listens on, by its number; ``unowned`` are sockets whose
    process cannot be told. ``open_files``: by process. ``blind``: what was not seen, in sentences.
    """

    root: str = ""
    processes: list[Process] = field(default_factory=list)
    ports: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    sockets: dict[int, list[str]] = field(default_factory=dict)
    unowned: list[str] = field(default_factory=list)
    open_files: dict[int, list[str]] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)

    def read(self, path: str, most: int = LARGEST_FILE) -> str:
        """The text of a plain file of the machine, "" where there is none to be read."""
        place = self._within(path)
        return read_text(place, most) if place else ""

    def exists(self, path: str) -> bool:
        """Whether something is there."""
        return bool(self._within(path)) and os.path.lexists(self.root + path)

    def folder(self, path: str) -> list[str]:
        """Names in a folder, sorted; none where it cannot be read."""
        try:
            with os.scandir(self._within(path) or "/nowhere") as entries:
                return sorted(entry.name for _, entry in zip(range(10_000), entries, strict=False))
        except OSError:
            return []

    def _within(self, path: str) -> str:
        """Where a path of the machine is; "" where a link leads out of the image, to this machine's own."""
        place = os.path.realpath(self.root + path) if self.root else path
        return place if not self.root or place.startswith(f"{os.path.realpath(self.root)}/") else ""

    def units(self, pattern: str) -> list[str]:
        """Unit files whose name matches, sorted."""
        found: set[str] = set()
        for place in ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system"):
            found.update(name for name in self.folder(place) if re.fullmatch(pattern, name))
        return sorted(found)


def look(root: str = "") -> Sight:
    """Look once at this machine, or at the image below ``root``."""
    sight = Sight(root.rstrip("/"))
    sight.packages = dict(_packages(sight.read("/var/lib/dpkg/status", 64 << 20)))
    if not sight.packages and _has_rpm(sight):
        sight.blind.append("packages of rpm are not read: servers are known by unit files and folders alone")
    if sight.root:
        return sight
    sight.processes = list(_processes(sight))
    _sockets(sight)
    if os.geteuid() != 0:
        sight.blind.append(
            "not root: what other users' processes have open (folders, ports, SQLite's databases) is not seen"
        )
    return sight


def read_text(path: str, most: int = LARGEST_FILE) -> str:
    """At most so many bytes of a plain file, "" where that cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return ""
    with contextlib.suppress(OSError), open(descriptor, "rb") as file:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return file.read(most).decode("utf-8", "surrogateescape")
    return ""


def port_in(text: str) -> int:
    """The port that somebody else wrote, 0 where that is none (1 to 65535)."""
    digits = text.strip()
    # Looked at before it is made a number: int() refuses long ones, and takes digits of every script.
    number = int(digits) if re.fullmatch(r"[0-9]{1,5}", digits) else 0
    return number if number < 1 << 16 else 0


def _has_rpm(sight: Sight) -> bool:
    return any(sight.folder(place) for place in ("/var/lib/rpm", "/usr/lib/sysimage/rpm"))


def _packages(status: str) -> Iterator[tuple[str, str]]:
    """Installed packages and their versions."""
    for block in status.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in block.splitlines()
            if re.match(r"(Package|Status|Version): ", line)
        )
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            yield fields["Package"], fields.get("Version", "")


def _processes(sight: Sight) -> Iterator[Process]:
    ours = _link("/proc/self/ns/mnt")
    for name in sorted((n for n in os.listdir("/proc") if n.isdigit()), key=int)[:MOST_PROCESSES]:
        folder = f"/proc/{name}"
        command = read_text(f"{folder}/cmdline", 1 << 16)
        status = read_text(f"{folder}/status", 1 << 16)
        uid = re.search(r"^Uid:\t(\d+)", status, re.MULTILINE)
        parent = re.search(r"^PPid:\t(\d+)", status, re.MULTILINE)
        if not command or uid is None or parent is None:
            continue  # a kernel thread, or gone
        groups = read_text(f"{folder}/cgroup", 1 << 16)
        unit = re.search(r"/([^/\n]+\.service)(?:/[^\n]*)?$", groups, re.MULTILINE)
        space = _link(f"{folder}/ns/mnt")
        yield Process(
            pid=int(name),
            parent=int(parent[1]),
            uid=int(uid[1]),
            argv=tuple(command.rstrip("\0").split("\0")),
            exe=_link(f"{folder}/exe"),
            unit=unit[1] if unit else "",
            container=_container(groups) if space and space != ours else "",
        )


def _container(groups: str) -> str:
    """What its control group calls the container, or a word for one that we do not know."""
    found = re.search(r"(docker|libpod|crio|cri-containerd|lxc|machine)[-/.]([A-Za-z0-9_.-]+)", groups)
    return f"{found[1]} {found[2][:64].removesuffix('.scope')}" if found else "a container"


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def descriptors(pid: int) -> Iterator[str]:
    """Where the open descriptors of a process lead."""
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                yield _link(entry.path)
    except OSError:
        return


def _sockets(sight: Sight) -> None:
    """Who listens where, and who has which files open."""
    ports = {**_tcp("/proc/net/tcp"), **_tcp("/proc/net/tcp6")}
    paths = _unix("/proc/net/unix")
    seen = 0
    for process in sight.processes:
        for target in descriptors(process.pid):
            seen += 1
            if target.startswith("socket:["):
                inode = target[8:-1]
                if inode in ports:
                    sight.ports.setdefault(process.pid, []).append(ports[inode])
                elif inode in paths:
                    sight.sockets.setdefault(process.pid, []).append(paths[inode])
            elif target.startswith("/"):
                sight.open_files.setdefault(process.pid, []).append(target)
        if seen > MOST_DESCRIPTORS:
            what = f"more than {MOST_DESCRIPTORS} open files"
            sight.blind.append(f"{what}: those of processes after {process.pid} were not seen")
            break
    owned = {path for found in sight.sockets.values() for path in found}
    sight.unowned = sorted({path for path in paths.values() if path not in owned})


def _tcp(table: str) -> dict[str, tuple[str, int]]:
    """Listening sockets by inode."""
    found: dict[str, tuple[str, int]] = {}
    for line in read_text(table).splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[3] == _LISTENING_TCP:
            host, port = words[1].split(":")
            with contextlib.suppress(ValueError, struct.error, OSError):
                found[words[9]] = (_address(host), int(port, 16))
    return found


def _address(text: str) -> str:
    """An address as the kernel writes it: words of 32 bits in the machine's own order."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, raw)


def _unix(table: str) -> dict[str, str]:
    """Paths of listening sockets by inode; those in the abstract space have none."""
    found: dict[str, str] = {}
    for line in read_text(table).splitlines()[1:]:
        words = line.split(" ", 7) if "  " not in line else line.split(None, 7)
        # The kernel writes a path as it is: one with a newline in it makes a line of anything.
        with contextlib.suppress(ValueError):
            if len(words) == 8 and int(words[3], 16) & _ACCEPTS and words[7].startswith("/"):
                found[words[6]] = words[7]
    return found
