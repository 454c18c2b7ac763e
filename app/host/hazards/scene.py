"""What hazards are looked for in: what will be frozen, and the machine's own tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from app.host.locks import EXTENSION_FOLDER
from app.host.mounts import Mount, parse_mountinfo
from app.paths import Paths

LARGEST_READ = 1 << 20
"""Bytes of a table or a configuration that are read."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process: number, name (at most 15 characters), state letter."""

    pid: int
    name: str
    state: str


def parse_stat(text: str) -> Process | None:
    """The head of /proc/PID/stat; None if it is none. A name may hold any character, brackets too."""
    head, opened, rest = text.partition(" (")
    name, closed, tail = rest.rpartition(") ")
    if not opened or not closed or not head.isdigit() or not tail:
        return None
    return Process(int(head), name, tail[0])


@dataclass(frozen=True)  # without slots, which cached properties need a place beside
class Scene:
    """``freezing``: what a hold will freeze, in its order. ``mounts``: all mounts, in the kernel's order.

    ``timeout``: the longest freeze, seconds. ``skip``: freeze.skip of the plan. ``machine``: a folder
    that stands for ``/`` ("": this machine). ``unwritten``: whether nobody writes dirty pages back before
    the freeze, as the extension does not. ``extension``: its folder, in which its lock is.
    """

    freezing: Sequence[Mount]
    mounts: Sequence[Mount]
    paths: Paths
    timeout: float
    skip: Sequence[str] = ()
    unwritten: bool = False
    extension: str = EXTENSION_FOLDER
    machine: str = ""

    def read(self, path: str) -> str:
        """The text of a file; "" where it is absent or cannot be read: what cannot be seen is no finding."""
        try:
            with open(f"{self.machine}{path}", "rb", buffering=0) as file:
                return (file.read(LARGEST_READ) or b"").decode("utf-8", "surrogateescape")
        except OSError:
            return ""

    def names(self, path: str) -> list[str]:
        """Names in a folder, sorted; none where it cannot be read."""
        try:
            return sorted(os.listdir(f"{self.machine}{path}"))
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return os.path.lexists(f"{self.machine}{path}")

    def frozen(self, device: str) -> Mount | None:
        """The filesystem of that major:minor, if it is to be frozen."""
        return next((mount for mount in self.freezing if mount.device == device), None)

    def mount_of(self, path: str) -> Mount | None:
        """The mount that ``path`` lies on, by its name alone: asking the file could block."""
        best: Mount | None = None
        for mount in self.mounts:
            inside = mount.path == "/" or path == mount.path or path.startswith(f"{mount.path}/")
            # Of two mounts on one path the later hides the earlier.
            if inside and (best is None or len(mount.path) >= len(best.path)):
                best = mount
        return best

    def frozen_beneath(self, path: str) -> Mount | None:
        """The filesystem to be frozen that ``path`` lies on, if it is one."""
        mount = self.mount_of(path)
        return None if mount is None else self.frozen(mount.device)

    @cached_property
    def processes(self) -> list[Process]:
        """All processes but our own; one that ends meanwhile is left out."""
        own = str(os.getpid())
        numbers = (name for name in self.names("/proc") if name.isdigit() and name != own)
        found = (parse_stat(self.read(f"/proc/{number}/stat")) for number in numbers)
        return [process for process in found if process is not None]

    @cached_property
    def _devices(self) -> dict[int, dict[int, str]]:
        """Devices by mount id, by process; 0 is our own namespace."""
        return {0: {mount.identifier: mount.device for mount in self.mounts}}

    def device_of_mount(self, identifier: int, pid: int) -> str:
        """Major:minor of the mount with that id; "" if unknown.

        Ids are the machine's own, so that only a process in another mount namespace needs its own table.
        """
        own = self._devices[0]
        if identifier in own:
            return own[identifier]
        if pid not in self._devices:
            theirs = parse_mountinfo(self.read(f"/proc/{pid}/mountinfo"))
            self._devices[pid] = {mount.identifier: mount.device for mount in theirs}
        return self._devices[pid].get(identifier, "")
