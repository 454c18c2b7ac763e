"""What ``app install`` puts beside the binary, the manifest that remembers it, and its removal.

The manifest, ``installed.json``, names the release, the binary, each file with mode and sha256, and
the folders that had to be made. It is what tells our files from somebody else's: a foreign file is
never written over, and one that was changed since is never removed. Nothing written holds a time
or anything of the machine it is written on, so that two images made alike are alike.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import posixpath
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.errors import HostUnfit
from app.files import File
from app.host import trust
from app.install import write_set
from app.paths import paths

MANIFEST = "/usr/local/share/stillframe/installed.json"
"""One place wherever the binary is, so that uninstall needs to be told nothing."""

SERVICE = "stillframe-recover.service"

_SYSTEMD = "/usr/lib/systemd/system"
_TMPFILES = "# The folder of a hold in progress: root's alone.\nd {run} 0700 root root -\n"
_UNIT = """\
[Unit]
Description=Release what a snapshot hold left behind when the machine went down
Documentation=man:app-recover(1)
RequiresMountsFor={lib}
# Once all else has been started: the servers that a release talks to, and units that wait for the target.
# Without the default dependencies the target that wants it does not wait for it (systemd.target(5)).
DefaultDependencies=no
Requires=sysinit.target
After=multi-user.target
Conflicts=shutdown.target
Before=shutdown.target
# Nothing is started, and nothing unpacked, where nothing was left behind.
ConditionPathExists=|{outstanding}
ConditionPathExists=|{journal}

[Service]
Type=oneshot
ExecStart={binary} recover
# 5: another hold is running, which recovered before it began.
SuccessExitStatus=5
# What a policy's recover step starts may go on.
KillMode=process
TimeoutStartSec=1800
"""
# A drop-in and not a link in multi-user.target.wants: it needs no systemctl, works in an image, and
# is written and taken back like every other file. An operator turns it off by systemctl mask.
_WANTED = f"[Unit]\nWants={SERVICE}\n"


@dataclass(frozen=True, slots=True)
class Completions:
    """The completion script for each shell."""

    bash: str
    zsh: str
    fish: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One installed file: exact mode, sha256 in hexadecimal."""

    path: str
    mode: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Installed:
    """What the manifest says: ``folders`` are those that did not exist before us."""

    release: str
    binary: str
    files: tuple[Entry, ...]
    folders: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """The manifest: the same bytes for the same facts."""
        data = {
            "release": self.release,
            "binary": self.binary,
            "files": {
                entry.path: {"mode": f"{entry.mode:o}", "sha256": entry.sha256} for entry in self.files
            },
            "folders": sorted(self.folders),
        }
        return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()

    @staticmethod
    def parse(content: bytes, origin: str) -> Installed:
        """Read a manifest. Raises HostUnfit if it is none."""
        try:
            raw = json.loads(content)
            entries = tuple(
                Entry(_path(path), int(item["mode"], 8), str(item["sha256"]))
                for path, item in sorted(raw["files"].items())
            )
            folders = tuple(_path(folder) for folder in raw["folders"])
            return Installed(str(raw["release"]), _path(raw["binary"]), entries, folders)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise HostUnfit(
                f"{origin}: not a manifest that this release can read ({error!r})",
                "move it away; app install then takes over the files that are as it would write them",
            ) from error

    def sha256(self, path: str) -> str | None:
        """The digest that ``path`` was installed with; None if it is none of ours."""
        return next((entry.sha256 for entry in self.files if entry.path == path), None)


@dataclass(frozen=True, slots=True)
class Change:
    """What installing would do; paths as the running VM sees them.

    ``files``: the whole set, manifest included. ``write``: those of them that are missing or
    differ. ``altered``: those of ``write`` that somebody else changed since we wrote them.
    ``remove``: files of the earlier release that this one has no more. ``keep``: such files that
    somebody else changed. ``leave``: folders of ours that nothing of ours is in any more.
    """

    files: tuple[File, ...]
    write: tuple[str, ...]
    altered: tuple[str, ...]
    remove: tuple[str, ...]
    keep: tuple[str, ...]
    leave: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """What uninstalling would do: ``remove``, ``keep`` (changed by somebody else), ``missing``."""

    installed: Installed
    remove: tuple[str, ...]
    keep: tuple[str, ...]
    missing: tuple[str, ...]


def companions(
    binary: str, pages: Mapping[str, str], completions: Completions, *, debian: bool = False
) -> list[File]:
    """Everything but the binary itself, for a VM that keeps it at ``binary``.

    ``pages``: man pages of section 1 by file name. ``debian``: zsh looks for what is not below
    /usr/local in a folder of its own there (Debian's zsh, README.Debian).
    """
    share = "/usr/local/share" if binary.startswith("/usr/local/") else "/usr/share"
    name = posixpath.basename(binary)
    zsh = "vendor-completions" if debian and share == "/usr/share" else "site-functions"
    where = paths({})
    unit = _UNIT.format(binary=binary, lib=where.lib, outstanding=where.outstanding, journal=where.journal)
    texts = {
        f"{share}/bash-completion/completions/{name}": completions.bash,
        f"{share}/zsh/{zsh}/_{name}": completions.zsh,
        # Not below /usr/local: fish looks there only where XDG_DATA_DIRS says so, as no server does.
        f"/usr/share/fish/vendor_completions.d/{name}.fish": completions.fish,
        "/usr/lib/tmpfiles.d/stillframe.conf": _TMPFILES.format(run=where.run),
        f"{_SYSTEMD}/{SERVICE}": unit,
        f"{_SYSTEMD}/multi-user.target.d/stillframe.conf": _WANTED,
        **{f"{share}/man/man1/{page}": text for page, text in pages.items()},
    }
    return [File(path, 0o644, text.encode()) for path, text in sorted(texts.items())]


def is_debian(root: str) -> bool:
    """Whether the system below ``root`` is Debian or derived from it."""
    return not any(f.kind == trust.MISSING for f in trust.findings("/etc/debian_version", root=root))


def read_installed(root: str) -> Installed | None:
    """What was installed below ``root``; None if nothing was.

    Raises HostUnfit where somebody else could have written the manifest, or it cannot be read.
    """
    if _found(MANIFEST, root) is None:
        return None
    return Installed.parse(trust.read_trusted(MANIFEST, 0o600, root=root), root + MANIFEST)


def plan_install(root: str, binary: str, release: str, files: Sequence[File]) -> Change:
    """What has to be done so that exactly ``files`` and their manifest stand below ``root``.

    Changes nothing. Raises HostUnfit where a path is not to be trusted, or a file stands in the way
    that is not one of ours.
    """
    earlier = read_installed(root)
    foreign: list[str] = []
    altered: list[str] = []
    for file in files:
        found, new = _found(file.path, root), hashlib.sha256(file.content).hexdigest()
        before = earlier.sha256(file.path) if earlier else None
        if found in (None, new, before):
            continue
        (foreign if before is None else altered).append(file.path)
    if foreign:
        raise HostUnfit(
            f"{', '.join(root + path for path in foreign)}: not one of ours; nothing was changed",
            "move it away, or choose another place for the binary with --to",
        )
    new_paths = {file.path for file in files} | {MANIFEST}
    gone = [entry for entry in earlier.files if entry.path not in new_paths] if earlier else []
    ours = set(earlier.folders) if earlier else set()
    needed = _parents(new_paths)
    folders = tuple(sorted((ours & needed) | _missing(needed, root)))
    entries = tuple(
        Entry(file.path, file.mode, hashlib.sha256(file.content).hexdigest())
        for file in sorted(files, key=lambda file: file.path)
    )
    manifest = File(MANIFEST, 0o600, Installed(release, binary, entries, folders).to_bytes())
    whole = (*files, manifest)
    return Change(
        files=whole,
        write=tuple(file.path for file in whole if not _stands(file, root)),
        altered=tuple(altered),
        remove=tuple(entry.path for entry in gone if _found(entry.path, root) == entry.sha256),
        keep=tuple(entry.path for entry in gone if _found(entry.path, root) not in (None, entry.sha256)),
        leave=tuple(sorted(ours - needed)),
    )


def install(root: str, change: Change) -> list[str]:
    """Carry out ``change``, all or none; the paths written and removed. Raises HostUnfit, Busy."""
    done = write_set(root, change.files, remove=change.remove)
    _remove_folders(change.leave, root)
    return done


def plan_removal(root: str) -> Removal | None:
    """What uninstalling would do below ``root``; None if nothing is installed. Raises HostUnfit."""
    installed = read_installed(root)
    if installed is None:
        return None
    remove: list[str] = []
    keep: list[str] = []
    missing: list[str] = []
    for entry in installed.files:
        found = _found(entry.path, root)
        (missing if found is None else remove if found == entry.sha256 else keep).append(entry.path)
    return Removal(installed, tuple(remove), tuple(keep), tuple(missing))


def remove(root: str, removal: Removal) -> list[str]:
    """Remove what ``removal`` says, then the manifest, then the folders that we made and are empty.

    The binary goes late and the manifest last, so that an uninstall that was cut short can be run
    again. Returns the folders removed. Raises HostUnfit at the first file that cannot be removed.
    """
    binary = removal.installed.binary
    for path in [*sorted(removal.remove, key=lambda path: (path == binary, path)), MANIFEST]:
        _unlink(path, root)
    return _remove_folders(removal.installed.folders, root)


def remove_folder(path: str, root: str = "") -> bool:
    """Remove a folder of ours with all in it, following no link; False if there is none.

    Raises HostUnfit if it cannot be removed, or others could have written on the way to it.
    """
    if not _exists(path, root):
        return False
    try:
        with _parent(path, root) as (parent, name):
            shutil.rmtree(name, dir_fd=parent)
    except OSError as error:
        raise _unremovable(path, root, error) from error
    return True


def _path(value: object) -> str:
    if not isinstance(value, str) or posixpath.normpath(value) != value or not value.startswith("/"):
        raise ValueError(f"{value!r} is no full path")
    return value


def _found(path: str, root: str) -> str | None:
    """The sha256 of the file there, "" for anything else that stands there, None for nothing.

    Raises HostUnfit where the way to it is not to be trusted.
    """
    descriptor, flaws = trust.examine(path, root=root)
    with contextlib.ExitStack() as closing:
        file = closing.enter_context(open(descriptor, "rb", buffering=0)) if descriptor >= 0 else None
        for flaw in flaws:
            if not flaw.own and flaw.kind != trust.MISSING:
                raise flaw.error()
        if file is not None:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return None if any(flaw.kind == trust.MISSING for flaw in flaws) else ""


def _stands(file: File, root: str) -> bool:
    if trust.findings(file.path, mode=file.mode, single=True, root=root):
        return False
    return _found(file.path, root) == hashlib.sha256(file.content).hexdigest()


def _exists(path: str, root: str) -> bool:
    return not any(flaw.kind == trust.MISSING for flaw in trust.findings(path, folder=True, root=root))


def _parents(files: Collection[str]) -> set[str]:
    folders: set[str] = set()
    for path in files:
        while (path := posixpath.dirname(path)) != "/":
            folders.add(path)
    return folders


def _missing(folders: Collection[str], root: str) -> set[str]:
    return {folder for folder in folders if not _exists(folder, root)}


@contextlib.contextmanager
def _parent(path: str, root: str) -> Iterator[tuple[int, str]]:
    descriptor = trust.open_folder(posixpath.dirname(path), root=root)
    try:
        yield descriptor, posixpath.basename(path)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: str, root: str) -> None:
    try:
        with _parent(path, root) as (parent, name), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
    except OSError as error:
        raise _unremovable(path, root, error) from error


def _remove_folders(folders: Collection[str], root: str) -> list[str]:
    """Remove those that are empty, the deepest first; what somebody else put there stays."""
    removed = []
    for folder in sorted(folders, reverse=True):
        if not _exists(folder, root):
            continue
        try:
            with _parent(folder, root) as (parent, name):
                os.rmdir(name, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            raise _unremovable(folder, root, error) from error
        removed.append(folder)
    return removed


def _unremovable(path: str, root: str, error: OSError) -> HostUnfit:
    hint = "remount it: mount -o remount,rw" if error.errno == errno.EROFS else "run it as root"
    return HostUnfit(f"{root}{path}: cannot be removed: {error.strerror or error}", hint)
