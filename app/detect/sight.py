"""What can be seen of a machine from outside its servers. Reads only, and not for ever.

Nothing that is found is trusted: names and paths are what somebody else's process has made of them.

Sources: proc_pid_fd(5); proc_pid_net(5) on /proc/pid/net/tcp and unix; the kernel's
Documentation/networking/proc_net_tcp.rst; dpkg(1) on /var/lib/dpkg/status.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.detect.processes import Process, processes
from app.detect.reading import LARGEST_FILE, link, read_text
from app.host.process import SEARCH_PATH

MOST_DESCRIPTORS = 200_000
MOST_OF_ONE = 50_000
"""Of one process: nobody who opens very many hides the others."""

MOST_NETWORKS = 64
UNBELIEVED = "@"
"""In place of a socket's path that nobody can be sure of."""

_LISTENING_TCP = "0A"
_ACCEPTS = 0x10000
"""__SO_ACCEPTCON in the flags of /proc/net/unix."""


@dataclass(slots=True)
class Sight:
    """A machine that runs (``root`` empty), or an image below ``root``.

    ``ports`` and ``sockets`` are what a process listens on, by its number (a socket that begins with no / is
    out of our reach); ``unowned`` are sockets whose process cannot be told; ``apart`` are processes that
    listen in a network of their own, which nobody else reaches. ``open_files``: by process. ``blind``: what
    was not seen, in sentences. ``sees_all``: whether every process's sockets were looked at.
    """

    root: str = ""
    processes: list[Process] = field(default_factory=list)
    ports: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    sockets: dict[int, list[str]] = field(default_factory=dict)
    unowned: list[str] = field(default_factory=list)
    apart: set[int] = field(default_factory=set)
    open_files: dict[int, list[str]] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)
    sees_all: bool = False

    def read(self, path: str, most: int = LARGEST_FILE) -> str:
        """The text of a plain file of the machine, "" where there is none to be read."""
        place = self._within(path)
        return read_text(place, most) if place else ""

    def exists(self, path: str) -> bool:
        """Whether something is there."""
        return bool(self._within(path)) and os.path.lexists(self.root + path)

    def has_program(self, name: str) -> bool:
        """Whether a program of that name is where policies look for theirs."""
        return any(self.exists(f"{place}/{name}") for place in SEARCH_PATH.split(":"))

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

    def paths(self, process: Process) -> list[str]:
        """The sockets that a process listens on and that have a path, from / on."""
        return [path for path in self.sockets.get(process.pid, ()) if path.startswith("/")]

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
    sight.processes = list(processes())
    _sockets(sight)
    if os.geteuid() != 0:
        sight.blind.append(
            "not root: what other users' processes have open (folders, ports, SQLite's databases) is not seen"
        )
    return sight


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


def descriptors(pid: int) -> Iterator[str]:
    """Where the open descriptors of a process lead, MOST_OF_ONE at most."""
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for _, entry in zip(range(MOST_OF_ONE), entries, strict=False):
                yield link(entry.path)
    except OSError:
        return


def _sockets(sight: Sight) -> None:
    """Who listens where, and who has which files open."""
    networks = _networks(sight.processes)
    ours, *others = [{**_tcp(f"{place}/tcp"), **_tcp(f"{place}/tcp6")} for place in networks]
    ports = {inode: place for table in (*others, ours) for inode, place in table.items()}
    paths = {inode: path for network in networks for inode, path in _unix(f"{network}/unix").items()}
    seen = 0
    sight.sees_all = os.geteuid() == 0
    for process in sight.processes:
        for target in descriptors(process.pid):
            seen += 1
            if target.startswith("socket:["):
                inode = target[8:-1]
                if inode in ports:
                    sight.ports.setdefault(process.pid, []).append(ports[inode])
                    if inode not in ours:
                        sight.apart.add(process.pid)
                elif inode in paths:
                    sight.sockets.setdefault(process.pid, []).append(_believed(process, paths[inode]))
            elif target.startswith("/"):
                sight.open_files.setdefault(process.pid, []).append(target)
        if seen > MOST_DESCRIPTORS:
            what = f"more than {MOST_DESCRIPTORS} open files"
            sight.blind.append(f"{what}: those of processes after {process.pid} were not seen")
            sight.sees_all = False
            break
    owned = {path for found in sight.sockets.values() for path in found}
    sight.unowned = sorted({path for path in paths.values() if path.startswith("/") and path not in owned})


def _believed(process: Process, path: str) -> str:
    """A socket's path from / on, if the file there is a socket of that process's user or of root.

    Whoever listens chooses a name, and one with a line break in it makes lines in the kernel's table that
    give other processes' sockets any path. ``UNBELIEVED``: it listens, and its path is not to be had.
    """
    place = path if path.startswith("/") else f"{process.folder()}/{path}"
    for seen in (f"/proc/{process.pid}/root{place}", place):
        with contextlib.suppress(OSError, ValueError):
            state = os.lstat(seen)
            return place if stat.S_ISSOCK(state.st_mode) and state.st_uid in (0, process.uid) else UNBELIEVED
    return UNBELIEVED


def _networks(found: list[Process]) -> list[str]:
    """Tables of our network namespace and of each other that a process of the machine's own root is in."""
    places = {link("/proc/self/ns/net"): "/proc/self/net"}
    for process in found:
        space = "" if process.container else link(f"/proc/{process.pid}/ns/net")
        if space and len(places) < MOST_NETWORKS:
            places.setdefault(space, f"/proc/{process.pid}/net")
    return list(places.values())


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
    """Listening sockets by inode: a path from / on, or a relative one, or an abstract name (@...)."""
    found: dict[str, str] = {}
    for line in read_text(table).splitlines()[1:]:
        words = line.split(" ", 7) if "  " not in line else line.split(None, 7)
        # The kernel writes a path as it is: one with a newline in it makes a line of anything.
        with contextlib.suppress(ValueError):
            if len(words) == 8 and int(words[3], 16) & _ACCEPTS:
                found[words[6]] = words[7]
    return found
