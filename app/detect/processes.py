"""Processes as /proc shows them. Nothing that they say of themselves is trusted.

Sources: proc_pid_cmdline(5), proc_pid_status(5), proc_pid_cgroup(5), proc_pid_root(5); systemd.exec(5),
"Sandboxing": a service may have a mount namespace of its own and yet the machine's root.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from app.detect.reading import link, read_text

MOST_PROCESSES = 20_000
_CONTAINER = re.compile(
    r"(?:^|[/-])(docker|libpod|crio|cri-containerd|nerdctl|lxc|machine)[-/.](?!slice\b|service\b|conmon-)([\w.-]+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Process:
    """One process. ``exe`` is "" where it cannot be read; ``unit`` the systemd unit that it belongs to.

    ``uid`` is the real one: a program with the setuid bit is whose it was started by. ``container``: what
    holds it, in words, if its root is another than ours.
    """

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
        return os.path.basename((self.exe or first).removesuffix(" (deleted)"))

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

    @property
    def home(self) -> str:
        """That user's home, or "" if the number has no name."""
        try:
            return pwd.getpwuid(self.uid).pw_dir
        except KeyError:
            return ""

    def is_program(self, *prefixes: str) -> bool:
        """Whether its file has a name that begins so, or cannot be read: a title may be anybody's."""
        return not self.exe or self.name.startswith(prefixes)

    def option(self, *names: str) -> str:
        """The value of ``--name value`` or ``--name=value`` among the arguments, or ""."""
        for index, word in enumerate(self.argv):
            for name in names:
                if word == name and index + 1 < len(self.argv):
                    return self.argv[index + 1]
                if word.startswith(f"{name}="):
                    return word.removeprefix(f"{name}=")
        return ""

    def environment(self, most: int = 1 << 20) -> dict[str, str]:
        """Its environment as it was started; empty where that cannot be read."""
        lines = read_text(f"/proc/{self.pid}/environ", most).split("\0")
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def folder(self) -> str:
        """Its working folder, "" where that cannot be read."""
        return link(f"/proc/{self.pid}/cwd")

    def sees(self, path: str) -> bool:
        """Whether a path means to us what it means to it; a service may have a /tmp of its own.

        True where that cannot be told.
        """
        try:
            theirs = os.stat(f"/proc/{self.pid}/root{path}")
        except OSError:
            return True
        try:
            return os.path.samestat(theirs, os.stat(path))
        except OSError:
            return False

    def stranger(self) -> str:
        """What is to be known of the owner of its program's file; "" if root alone can have written it."""
        try:
            state = os.stat(f"/proc/{self.pid}/exe")
        except OSError:
            return ""
        if state.st_uid == 0 and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return ""
        try:
            owner = pwd.getpwuid(state.st_uid).pw_name
        except KeyError:
            owner = f"number {state.st_uid}"
        words = f"its program {self.exe} is not root's alone (user {owner}, mode {state.st_mode & 0o7777:o})"
        return f"{words}: whoever can write it may have made this up"


def processes() -> Iterator[Process]:
    """All that can be seen, the oldest numbers first."""
    try:
        ours: os.stat_result | None = os.stat("/")
    except OSError:
        ours = None
    own_groups = _container(read_text("/proc/self/cgroup", 1 << 16))
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
        container = _container(groups)
        try:
            elsewhere = ours is not None and not os.path.samestat(os.stat(f"{folder}/root"), ours)
        except OSError:  # not root: only the control group tells, if it is another than our own
            elsewhere = bool(container) and container != own_groups
        yield Process(
            pid=int(name),
            parent=int(parent[1]),
            uid=int(uid[1]),
            argv=tuple(command.rstrip("\0").split("\0")),
            exe=link(f"{folder}/exe"),
            unit=unit[1] if unit else "",
            container=(container or "another root folder") if elsewhere else "",
        )


def _container(groups: str) -> str:
    """What its control group calls a container, "" where it names none that we know."""
    found = _CONTAINER.search(groups)
    return f"{found[1]} {found[2][:64].removesuffix('.scope')}" if found else ""
