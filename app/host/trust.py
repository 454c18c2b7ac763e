"""Root runs only what nobody but root could have written (law 6 of the design).

A path is walked from its root one component at a time, each opened relative to the folder before
it and never through a symbolic link, so that nothing can be exchanged between a check and its use.
What was checked is the open file descriptor that the caller then reads, executes or hashes.

POSIX ACLs need no reading of their own: where an ACL stands, the group bits of the mode are its
mask, the most that any named user or group can get (acl(5), "Correspondence between ACL entries
and file permission bits"). No group write bit means that no entry of the ACL gives write.

Imports nothing but os, stat and app.errors: the runtime on the VM uses it before every hold.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from app.errors import HostUnfit

MAX_BYTES = 16 * 1024 * 1024
"""The largest file that is read into memory: far beyond any plan, config or script of ours."""

MAX_LINKS = 40
"""Symbolic links followed on the way to a program, as in the kernel (path_resolution(7))."""

_WALK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO put there must not hang us. O_NOCTTY: nor a terminal become ours.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

MISSING, PATH, LINK, TYPE, OWNER, WRITABLE, MODE, LINKS, UNREADABLE = (
    "missing",
    "path",
    "link",
    "type",
    "owner",
    "writable",
    "mode",
    "links",
    "unreadable",
)
_FATAL = frozenset({MISSING, PATH, LINK, TYPE, UNREADABLE})


@dataclass(frozen=True, slots=True)
class Flaw:
    """One reason not to trust a path: the component at fault, what is wrong, and what repairs it.

    ``kind`` is one of this module's words (``MISSING`` to ``UNREADABLE``). ``own``: the fault is
    the last component's and not that of a folder or link on the way. ``found``: its permission
    bits, where those are the fault.
    """

    path: str
    kind: str
    message: str
    repair: str
    own: bool
    found: int | None = None

    def error(self) -> HostUnfit:
        """The same as an exception."""
        return HostUnfit(f"{self.path}: {self.message}", self.repair)


def owners() -> frozenset[int]:
    """Who may own what we trust: root, and without root also the user that we are."""
    return frozenset({0, os.geteuid()})


def open_trusted(path: str, *, mode: int | None = None, single: bool = False, root: str = "") -> int:
    """Open a regular file that nobody but root could have written; the caller closes it.

    ``mode``: the exact permission bits wanted, setuid bits included; None: no write for group and
    others. ``single``: no other hard link may exist. ``root``: an image folder below which ``path``
    is meant. Raises HostUnfit with the first flaw.
    """
    return _first(examine(path, mode=mode, single=single, root=root))


def read_trusted(
    path: str,
    mode: int | None = None,
    *,
    single: bool = False,
    root: str = "",
    max_bytes: int = MAX_BYTES,
) -> bytes:
    """The bytes of a trusted file, as for open_trusted; HostUnfit beyond ``max_bytes``."""
    descriptor = open_trusted(path, mode=mode, single=single, root=root)
    try:
        return read_open(descriptor, path, max_bytes)
    finally:
        os.close(descriptor)


def read_open(descriptor: int, path: str, max_bytes: int = MAX_BYTES) -> bytes:
    """All bytes of an open file from its beginning; HostUnfit beyond ``max_bytes`` or on an error."""
    chunks: list[bytes] = []
    size = 0
    try:
        while size <= max_bytes:
            chunk = os.pread(descriptor, 1 << 20, size)
            if not chunk:
                return b"".join(chunks)
            chunks.append(chunk)
            size += len(chunk)
    except OSError as error:
        raise HostUnfit(f"{path}: cannot be read: {error.strerror}") from error
    raise HostUnfit(f"{path}: larger than {max_bytes} bytes", "this is no file of ours: look who wrote it")


def open_program(path: str, *, root: str = "") -> int:
    """Open a program that root is to execute; use it as ``/proc/self/fd/N`` or by fexecve.

    Symbolic links are followed, at most MAX_LINKS, if each lies in trusted folders and has a
    trusted owner. Raises HostUnfit with the first flaw.
    """
    return _first(examine(path, program=True, root=root))


def open_folder(path: str, *, mode: int | None = None, root: str = "") -> int:
    """Open a trusted folder for reading, syncing and as ``dir_fd``. Raises HostUnfit."""
    return _first(examine(path, mode=mode, folder=True, root=root))


def findings(
    path: str,
    *,
    mode: int | None = None,
    single: bool = False,
    program: bool = False,
    folder: bool = False,
    root: str = "",
) -> list[Flaw]:
    """Every flaw that can be seen, instead of the first one as an error; [] means trusted."""
    descriptor, flaws = examine(path, mode=mode, single=single, program=program, folder=folder, root=root)
    if descriptor >= 0:
        os.close(descriptor)
    return flaws


def examine(
    path: str,
    *,
    mode: int | None = None,
    single: bool = False,
    program: bool = False,
    folder: bool = False,
    root: str = "",
) -> tuple[int, list[Flaw]]:
    """Open ``path`` whatever its owner and mode, with every flaw seen on the way.

    The descriptor is -1 where there is nothing to open (missing, a link, no regular file, a path
    with ``..``); otherwise the caller closes it, and must not act on its content while a flaw
    stands. Never raises for what is found on the disk.
    """
    walk = _Walk(root, links=program)
    try:
        return walk.to(path, mode=mode, single=single, program=program, folder=folder), walk.flaws
    finally:
        walk.close()


def _first(examined: tuple[int, list[Flaw]]) -> int:
    descriptor, flaws = examined
    if not flaws:
        return descriptor
    if descriptor >= 0:
        os.close(descriptor)
    raise flaws[0].error()


class _Walk:
    """The folders opened so far, from the root down, and the flaws seen in them."""

    def __init__(self, root: str, *, links: bool) -> None:
        self.prefix = root.rstrip("/")
        self.links = links
        self.flaws: list[Flaw] = []
        self.owners = owners()
        self.stack: list[tuple[int, str, os.stat_result]] = []
        self.seen: set[tuple[int, int]] = set()

    def close(self) -> None:
        while self.stack:
            os.close(self.stack.pop()[0])

    def to(self, path: str, *, mode: int | None, single: bool, program: bool, folder: bool) -> int:
        names = [name for name in path.split("/") if name not in ("", ".")]
        if not path.startswith("/") or ".." in names or not _encodable(path):
            self._flaw(repr(path), PATH, "not a full path without '..'", "name it from / on", own=True)
            return -1
        if not self._start():
            return -1
        followed = 0
        while names:
            name = names.pop(0)
            if name == "..":
                if len(self.stack) > 1:
                    os.close(self.stack.pop()[0])
                continue
            last = not names
            here = self._place(name)
            found = self._look(name, here, own=last)
            if found is None:
                return -1
            if stat.S_ISLNK(found.st_mode):
                if not self.links:
                    self._flaw(
                        here, LINK, "is a symbolic link", f"see where it leads: ls -l {_q(here)}", last
                    )
                    return -1
                followed += 1
                target = self._target(name, here, found, followed, last)
                if target is None:
                    return -1
                if target.startswith("/"):
                    while len(self.stack) > 1:
                        os.close(self.stack.pop()[0])
                names = [part for part in target.split("/") if part not in ("", ".")] + names
                continue
            if last and not folder:
                return self._open_file(name, here, found, mode=mode, single=single, program=program)
            if not self._enter(name, here, last):
                return -1
        if not folder:
            self._flaw(path, TYPE, "is a folder, not a file", "move it away", own=True)
            return -1
        return self._open_folder(mode)

    def _start(self) -> bool:
        try:
            # The folder of an image is the operator's own choice: links on the way to it are theirs.
            top = os.open(self.prefix or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self._flaw("/", MISSING, f"cannot be opened: {error.strerror}", "name a folder", own=True)
            return False
        self._push(top, "", own=False)
        return True

    def _place(self, name: str = "") -> str:
        parts = [entry[1] for entry in self.stack[1:]]
        return self.prefix + "/" + "/".join([*parts, name] if name else parts)

    def _flaw(
        self, path: str, kind: str, message: str, repair: str, own: bool, found: int | None = None
    ) -> None:
        self.flaws.append(Flaw(path, kind, message, repair, own, found))

    def _look(self, name: str, here: str, own: bool) -> os.stat_result | None:
        parent, _, parent_state = self.stack[-1]
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            repair = "install it" if self.links else "write it again: app compile"
            self._flaw(here, MISSING, "does not exist", repair, own)
            return None
        except OSError as error:
            self._flaw(here, UNREADABLE, f"cannot be looked at: {error.strerror}", "run it as root", own)
            return None
        # In a folder like /tmp whoever owns an entry may exchange it, and nobody else (sticky bit).
        if _writable(parent_state) and found.st_uid not in self.owners:
            self._distrust_owner(here, found, own)
        return found

    def _enter(self, name: str, here: str, own: bool) -> bool:
        parent = self.stack[-1][0]
        try:
            descriptor = os.open(name, _WALK | os.O_DIRECTORY, dir_fd=parent)
        except NotADirectoryError:
            self._flaw(here, TYPE, "is not a folder", f"move it away: mv {_q(here)} {_q(here + '.old')}", own)
            return False
        except OSError as error:
            self._flaw(here, UNREADABLE, f"cannot be opened: {error.strerror}", "run it as root", own)
            return False
        self._push(descriptor, name, own)
        return True

    def _push(self, descriptor: int, name: str, own: bool) -> None:
        state = os.fstat(descriptor)
        self.stack.append((descriptor, name, state))
        if (state.st_dev, state.st_ino) in self.seen:
            return
        self.seen.add((state.st_dev, state.st_ino))
        here = self._place()
        if state.st_uid not in self.owners:
            self._distrust_owner(here, state, own)
        if _writable(state) and not state.st_mode & stat.S_ISVTX:
            wrong = f"others may write in it (owner {state.st_uid}, mode {_octal(state)})"
            self._flaw(here, WRITABLE, wrong, f"chmod go-w {_q(here)}", own)

    def _distrust_owner(self, here: str, state: os.stat_result, own: bool) -> None:
        want = "root" if 0 in self.owners and len(self.owners) == 1 else f"root or user {os.geteuid()}"
        wrong = f"owned by user {state.st_uid} (mode {_octal(state)}), not by {want}"
        if not any(flaw.path == here and flaw.kind == OWNER for flaw in self.flaws):
            self._flaw(here, OWNER, wrong, f"chown -h root:root {_q(here)}", own)

    def _target(self, name: str, here: str, link: os.stat_result, followed: int, own: bool) -> str | None:
        if link.st_uid not in self.owners:
            self._distrust_owner(here, link, own)
        if followed > MAX_LINKS:
            self._flaw(
                here, LINK, f"more than {MAX_LINKS} symbolic links on the way", "name the file itself", own
            )
            return None
        try:
            return os.readlink(name, dir_fd=self.stack[-1][0])
        except OSError as error:
            self._flaw(here, UNREADABLE, f"cannot be followed: {error.strerror}", "run it again", own)
            return None

    def _open_file(
        self, name: str, here: str, before: os.stat_result, *, mode: int | None, single: bool, program: bool
    ) -> int:
        # Looked at before it is opened too: opening a device can already do something.
        descriptor = -1
        if stat.S_ISREG(before.st_mode):
            try:
                descriptor = os.open(name, _READ, dir_fd=self.stack[-1][0])
            except OSError as error:
                self._flaw(
                    here, UNREADABLE, f"cannot be opened: {error.strerror}", "run it as root", own=True
                )
                return -1
        state = before if descriptor < 0 else os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            if descriptor >= 0:
                os.close(descriptor)
            wrong = "is a folder, not a file" if stat.S_ISDIR(state.st_mode) else "is not a regular file"
            self._flaw(here, TYPE, wrong, f"move it away: mv {_q(here)} {_q(here + '.old')}", own=True)
            return -1
        self._judge(here, state, mode)
        if single and state.st_nlink != 1:
            wrong = f"has {state.st_nlink} names (hard links), want 1"
            self._flaw(here, LINKS, wrong, f"find / -xdev -samefile {_q(here)}", own=True)
        if program and not state.st_mode & 0o111:
            self._flaw(here, MODE, f"mode {_octal(state)}: not executable", f"chmod 755 {_q(here)}", own=True)
        return descriptor

    def _open_folder(self, mode: int | None) -> int:
        parent, _, state = self.stack[-1]
        here = self._place()
        if mode is not None and stat.S_IMODE(state.st_mode) != mode:
            self._flaw(
                here, MODE, f"mode {_octal(state)}, want {mode:o}", f"chmod {mode:o} {_q(here)}", own=True
            )
        try:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
        except OSError as error:
            self._flaw(here, UNREADABLE, f"cannot be read: {error.strerror}", "run it as root", own=True)
            return -1

    def _judge(self, here: str, state: os.stat_result, mode: int | None) -> None:
        if state.st_uid not in self.owners:
            self._distrust_owner(here, state, own=True)
        if mode is not None:
            if stat.S_IMODE(state.st_mode) != mode:
                wrong = f"mode {_octal(state)}, want {mode:o}"
                bits = stat.S_IMODE(state.st_mode)
                self._flaw(here, MODE, wrong, f"chmod {mode:o} {_q(here)}", own=True, found=bits)
        elif _writable(state):
            wrong = f"others may write it (owner {state.st_uid}, mode {_octal(state)})"
            self._flaw(here, WRITABLE, wrong, f"chmod go-w {_q(here)}", own=True)


def _encodable(path: str) -> bool:
    """Whether the kernel can be asked about it: no NUL, and no half of a character (from JSON)."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _writable(state: os.stat_result) -> bool:
    return bool(state.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _octal(state: os.stat_result) -> str:
    return f"{stat.S_IMODE(state.st_mode):o}"


def _q(path: str) -> str:
    """``path`` as one word of a shell, for a repair command that people paste."""
    plain = path.replace("/", "").replace("-", "").replace("_", "").replace(".", "")
    return path if plain.isalnum() and plain.isascii() else "'" + path.replace("'", "'\\''") + "'"
