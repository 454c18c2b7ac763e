"""Writes a set of files whole or not at all, and compares one with the disk.

Everything is first written to temporary names beside its place, synced, and only then renamed, the
manifest last. Whatever fails before the end puts the former files back. A crash in the middle
leaves each file either old or new, never half, and a mix of both is seen by the manifest. All
paths are walked by folder descriptors and never through a symbolic link, so that inside an image
nothing leads out of it, and on a VM nothing leads to a place where somebody else may write.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import os
import posixpath
import re
import stat
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from app.errors import Busy, HostUnfit
from app.files import File
from app.host import trust

MANIFESTS = ("manifest.json", "installed.json")
"""Written last: each vouches for the rest of its set."""

PRIVATE = "stillframe"
"""The folder of ours, which nobody else may look into: made with mode 700, others that are missing with 755.

One that stands is made so again only where a manifest of the set is in it: it may be somebody else's.
"""

LOCK_SECONDS = 10.0
"""How long to wait for another compile that is writing the same set."""

_LEFTOVER = re.compile(r"\.stillframe-[0-9a-f]{16}\.(new|old)")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EACCES}
_WHY = {
    errno.ENOSPC: ("no space is left on the filesystem", "free some space, then run it again"),
    errno.EDQUOT: ("the disk quota is used up", "raise the quota, then run it again"),
    errno.EROFS: ("the filesystem is read-only", "remount it: mount -o remount,rw"),
    errno.EACCES: ("permission denied", "run it as root"),
    errno.EPERM: ("operation not permitted", "run it as root; see also lsattr (immutable files)"),
}


def write_set(root: str, files: Sequence[File], remove: Iterable[str] = ()) -> list[str]:
    """Write ``files`` below ``root`` ("" or "/": this machine) all or none; return what changed.

    Files that already stand there with these bytes, mode and owner are left untouched. ``remove``
    names files (of an earlier set) that are to go in the same transaction. The result holds the
    paths written and removed, as in ``files``. Raises HostUnfit, with nothing changed, where a
    path is not to be trusted or cannot be written, and Busy while another process writes.
    """
    with ExitStack() as closing:
        transaction = _Transaction(root.rstrip("/"), closing)
        try:
            return transaction.run(list(files), list(remove))
        except OSError as error:
            raise transaction.explain(error) from error


def differences(root: str, files: Sequence[File]) -> list[str]:
    """Lines that say how the disk below ``root`` differs from ``files``: [] where it does not.

    Content as a unified diff (from: disk, to: ``files``), and one line for each missing file, wrong
    mode or wrong owner. Changes nothing, follows no link. Raises HostUnfit for an unreadable file.
    """
    lines: list[str] = []
    for file in files:
        lines += _difference(root.rstrip("/"), file)
    return lines


def _difference(root: str, file: File) -> list[str]:
    place = root + file.path
    descriptor, flaws = trust.examine(file.path, mode=file.mode, root=root)
    if descriptor < 0:
        flaw = flaws[-1]
        if flaw.kind == trust.UNREADABLE:
            raise flaw.error()
        return [f"{place}: missing" if flaw.kind == trust.MISSING else f"{flaw.path}: {flaw.message}"]
    try:
        found = trust.read_open(descriptor, place)
    finally:
        os.close(descriptor)
    lines = [f"{place}: {flaw.message}" for flaw in flaws if flaw.own]
    if found != file.content:
        lines += difflib.unified_diff(
            _lines(found), _lines(file.content), f"{place} (on disk)", f"{place} (compiled)", lineterm=""
        )
    return lines


def _lines(content: bytes) -> list[str]:
    """Lines as diff(1) knows them: split at newlines only, and a last one without newline says so."""
    lines = content.decode("utf-8", "backslashreplace").split("\n")
    last = lines.pop()
    return [*lines, last, "\\ No newline at end of file"] if last else lines


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where one file goes: the folder's descriptor, the name in it, the whole path for messages."""

    folder: int
    name: str
    place: str


class _Transaction:
    """One call of write_set: its open folders, and what undoes each thing done so far."""

    def __init__(self, root: str, closing: ExitStack) -> None:
        self.root = root
        self.closing = closing
        self.folders: dict[str, int] = {}
        self.own: dict[str, str] = {}
        self.at = root or "/"
        self.backups: list[_Slot] = []
        self.stuck: list[str] = []

    def run(self, files: list[File], remove: list[str]) -> list[str]:
        paths = [file.path for file in files] + remove
        if len(set(paths)) != len(paths):
            raise ValueError(f"a path stands twice in one set: {paths}")
        for path in (file.path for file in files):
            if posixpath.basename(path) in MANIFESTS:
                self.own[posixpath.dirname(path)] = path
        with ExitStack() as undo:
            # Removals only where the folder is there already.
            for path in [file.path for file in files]:
                self._folder(posixpath.dirname(path), undo)
            self._lock()
            for descriptor in self.folders.values():
                _sweep(descriptor)
            changed = [file for file in files if not self._stands(file)]
            gone = [path for path in remove if self._removable(path)]
            staged = [(file, self._stage(file, undo)) for file in changed]
            last = [pair for pair in staged if posixpath.basename(pair[0].path) in MANIFESTS]
            for file, temporary in staged:
                if (file, temporary) not in last:
                    self._swap(file.path, temporary, undo)
            for path in gone:
                self._swap(path, "", undo)
            # The manifest must not reach the disk before what it vouches for.
            self._sync()
            for file, temporary in last:
                self._swap(file.path, temporary, undo)
            self._sync()
            undo.pop_all()
        for backup in self.backups:
            # The set stands; a backup that cannot go now is swept by the next run.
            with contextlib.suppress(OSError):
                _unlink(backup.folder, backup.name)
        return [file.path for file in changed] + gone

    def explain(self, error: OSError) -> HostUnfit:
        """The one clear error for an OSError anywhere in the transaction."""
        why, hint = _WHY.get(error.errno or 0, (error.strerror or str(error), "see the kernel's log"))
        if self.stuck:
            left = ", ".join(self.stuck)
            return HostUnfit(
                f"{self.at}: {why}; and the former files could not be put back: {left}",
                f"{hint}; 'app verify' shows what is mixed",
            )
        return HostUnfit(f"{self.at}: {why}; nothing was changed", hint)

    def _folder(self, folder: str, undo: ExitStack) -> int:
        if folder in self.folders:
            return self.folders[folder]
        self.at = self.root + folder
        descriptor, flaws = trust.examine(folder or "/", folder=True, root=self.root)
        if descriptor < 0 and folder != "/" and all(flaw.kind == trust.MISSING for flaw in flaws):
            parent = self._folder(posixpath.dirname(folder), undo)
            descriptor, flaws = self._make(parent, folder, undo), []
        if descriptor >= 0:
            self.closing.callback(os.close, descriptor)
        if flaws:
            raise flaws[0].error()
        self.folders[folder] = descriptor
        path = self.own.get(folder)
        if path is not None and posixpath.basename(folder) == PRIVATE and _regular(self._slot(path)):
            self._privatise(descriptor, undo)
        return descriptor

    def _make(self, parent: int, folder: str, undo: ExitStack) -> int:
        name = posixpath.basename(folder)
        # A umask that takes the owner's bits away would keep us from opening what we just made.
        umask = os.umask(0o077)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        finally:
            os.umask(umask)
        undo.callback(_rmdir, parent, name)
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        _own(descriptor)
        os.fchmod(descriptor, 0o700 if name == PRIVATE else 0o755)
        os.fsync(parent)
        return descriptor

    def _privatise(self, descriptor: int, undo: ExitStack) -> None:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode != 0o700:
            undo.callback(os.fchmod, descriptor, mode)
            os.fchmod(descriptor, 0o700)

    def _lock(self) -> None:
        """Lock the folder of the manifest: nobody but root can open that one, so nobody can block us."""
        folder = (list(self.own) or list(self.folders) or [""])[0]
        if folder not in self.folders:
            return
        give_up = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self.folders[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise Busy(
                        f"{self.root}{folder}: another process has been writing for {LOCK_SECONDS:.0f} s",
                        f"see who it is: fuser -v {self.root}{folder}",
                    ) from None
                time.sleep(0.05)

    def _slot(self, path: str) -> _Slot:
        self.at = self.root + path
        return _Slot(self.folders[posixpath.dirname(path)], posixpath.basename(path), self.at)

    def _stands(self, file: File) -> bool:
        slot = self._slot(file.path)
        state = _regular(slot)
        if state is None:
            return False
        owner = (state.st_uid, state.st_gid) == (0, 0) if os.geteuid() == 0 else state.st_uid == os.geteuid()
        alike = stat.S_IMODE(state.st_mode) == file.mode and state.st_size == len(file.content)
        if not owner or not alike or state.st_nlink != 1:
            return False
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(slot.name, flags, dir_fd=slot.folder)
        try:
            return trust.read_open(descriptor, slot.place) == file.content
        finally:
            os.close(descriptor)

    def _removable(self, path: str) -> bool:
        folder = posixpath.dirname(path)
        if folder not in self.folders:
            descriptor, flaws = trust.examine(folder, folder=True, root=self.root)
            if descriptor >= 0:
                self.closing.callback(os.close, descriptor)
            if flaws and flaws[0].kind == trust.MISSING:
                return False
            if flaws:
                raise flaws[0].error()
            self.folders[folder] = descriptor
        return _regular(self._slot(path)) is not None

    def _stage(self, file: File, undo: ExitStack) -> str:
        slot = self._slot(file.path)
        temporary = _unpredictable("new")
        undo.callback(_unlink, slot.folder, temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=slot.folder)
        try:
            _own(descriptor)
            rest = memoryview(file.content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            # After the bytes, and not by the mode at creation: the umask has no say.
            os.fchmod(descriptor, file.mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return temporary

    def _swap(self, path: str, temporary: str, undo: ExitStack) -> None:
        """Put ``temporary`` in the place of ``path``, or nothing if it is "", keeping what was there."""
        slot = self._slot(path)
        if _regular(slot) is None:
            undo.callback(_unlink, slot.folder, slot.name)
        else:
            backup = _Slot(slot.folder, _unpredictable("old"), slot.place)
            self.backups.append(backup)
            undo.callback(self._restore, backup, slot)
            _keep(slot, backup.name, move=not temporary)
        if temporary:
            os.rename(temporary, slot.name, src_dir_fd=slot.folder, dst_dir_fd=slot.folder)

    def _restore(self, backup: _Slot, slot: _Slot) -> None:
        try:
            os.rename(backup.name, slot.name, src_dir_fd=slot.folder, dst_dir_fd=slot.folder)
            os.fsync(slot.folder)
        except FileNotFoundError:
            pass  # not yet set aside: the former file still stands
        except OSError:
            self.stuck.append(slot.place)
            return
        # rename(2) does nothing where both names are links of one file.
        _unlink(backup.folder, backup.name)

    def _sync(self) -> None:
        for folder, descriptor in self.folders.items():
            self.at = self.root + folder
            os.fsync(descriptor)


def _regular(slot: _Slot) -> os.stat_result | None:
    """The state of what stands in a slot; None for nothing; HostUnfit for anything but a file."""
    try:
        state = os.stat(slot.name, dir_fd=slot.folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(state.st_mode):
        return state
    names = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}
    what = names.get(stat.S_IFMT(state.st_mode), "no regular file")
    raise HostUnfit(
        f"{slot.place}: is {what} where a file should be; nothing was changed",
        f"look what it is (ls -ld {slot.place}) and move it away",
    )


def _keep(slot: _Slot, backup: str, *, move: bool) -> None:
    """Give the former file a second name, or move it there where that is what is wanted."""
    if not move:
        try:
            os.link(slot.name, backup, src_dir_fd=slot.folder, dst_dir_fd=slot.folder, follow_symlinks=False)
            return
        except OSError as error:
            # Filesystems without hard links: for an instant the place is empty, which verify sees.
            if error.errno not in _NO_LINKS:
                raise
    os.rename(slot.name, backup, src_dir_fd=slot.folder, dst_dir_fd=slot.folder)


def _sweep(folder: int) -> None:
    """Remove what a run that died left behind. The lock is held: no live run owns any of it."""
    for name in os.listdir(folder):
        if _LEFTOVER.fullmatch(name):
            with contextlib.suppress(IsADirectoryError):
                _unlink(folder, name)


def _unpredictable(kind: str) -> str:
    return f".stillframe-{os.urandom(8).hex()}.{kind}"


def _own(descriptor: int) -> None:
    if os.geteuid() == 0:
        os.fchown(descriptor, 0, 0)


def _unlink(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _rmdir(parent: int, name: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=parent)
