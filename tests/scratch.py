"""Filesystems to freeze without harm: a sparse image, a loop device, a mount; gone afterwards.

Whatever happens inside, the filesystem is thawed before it is unmounted: a process that waits for
a frozen filesystem cannot be killed, and an unmount of it never ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int).
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878

PREFIX = "sf-"

# Smallest sizes: mkfs.xfs refuses less than 300 MB, and btrfs keeps its metadata twice.
_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
    "btrfs": ["mkfs.btrfs", "-q", "-f", "-K"],
}


@dataclass(frozen=True, slots=True)
class Volume:
    """A mounted scratch filesystem: its kind, image file, loop device and mount point."""

    kind: str
    image: Path
    device: str
    mount: Path


def freeze(mount: str | Path) -> None:
    """FIFREEZE. Raises OSError (EBUSY) where it is frozen already."""
    _ioctl(mount, FIFREEZE)


def thaw(mount: str | Path) -> bool:
    """FITHAW until nothing is left to thaw; whether anything was. Never raises."""
    thawed = False
    for _ in range(16):
        try:
            _ioctl(mount, FITHAW)
        except OSError:
            break
        thawed = True
    return thawed


def is_frozen(mount: str | Path) -> bool:
    """Whether the filesystem is frozen: a second FIFREEZE gives EBUSY. One that was not is thawed again."""
    try:
        _ioctl(mount, FIFREEZE)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    _ioctl(mount, FITHAW)
    return False


@contextlib.contextmanager
def filesystem(
    kind: str, megabytes: int = 512, below: Path | None = None, *, direct: bool = False
) -> Iterator[Volume]:
    """A new filesystem of ``kind`` (ext4, xfs, btrfs), mounted for as long as the context lasts.

    The image is sparse and stands in a private folder under ``below`` (absent: the system's own
    temporary folder). ``direct``: what is written goes past the image's own page cache, as to a disk.
    Needs root.
    """
    sweep()
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=below))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)  # servers run as users of their own
        image, mount = folder / "image", folder / "mnt"
        mount.mkdir()
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        _run(*_MAKE[kind], str(image))
        volume = stack.enter_context(mounted(image, mount, kind, direct=direct))
        mount.chmod(0o755)
        yield volume


@contextlib.contextmanager
def mounted(
    image: Path, mount: Path, kind: str, options: str = "rw", *, direct: bool = False
) -> Iterator[Volume]:
    """An image that holds a filesystem, on a loop device, mounted at ``mount``."""
    with contextlib.ExitStack() as stack:
        how = ["--direct-io=on"] if direct else []
        device = _run("losetup", "--find", "--show", *how, str(image)).strip()
        stack.callback(_run, "losetup", "--detach", device)
        _run("mount", "-t", kind, "-o", options, device, str(mount))
        stack.callback(_unmount, mount)
        yield Volume(kind, image, device, mount)


def sweep() -> None:
    """Take away what test runs that were killed left behind: by the process number in the name."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        where = line.split()[4].encode().decode("unicode_escape")
        if _is_stale(where):
            with contextlib.suppress(subprocess.CalledProcessError):
                _unmount(Path(where))
    for line in _run("losetup", "--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE").splitlines():
        device, _, image = line.partition(" ")
        if _is_stale(image):
            with contextlib.suppress(subprocess.CalledProcessError):
                _run("losetup", "--detach", device)
            shutil.rmtree(Path(image.removesuffix(" (deleted)")).parent, ignore_errors=True)


def _is_stale(place: str) -> bool:
    _, found, rest = place.partition(f"/{PREFIX}")
    owner = rest.partition("-")[0]
    return bool(found) and owner.isdigit() and not Path("/proc", owner).exists()


def _unmount(mount: Path) -> None:
    # Whoever still ends its work in there gets a moment once it is thawed.
    give_up = time.monotonic() + 10
    while True:
        thaw(mount)
        try:
            _run("umount", str(mount))
            return
        except subprocess.CalledProcessError:
            if time.monotonic() > give_up:
                # Out of everybody's way, and then a failure that names the leak.
                subprocess.run(["umount", "--lazy", str(mount)], check=False)
                raise
            time.sleep(0.1)


def _ioctl(mount: str | Path, request: int) -> None:
    descriptor = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, request, 0)
    finally:
        os.close(descriptor)


def _run(*argv: str) -> str:
    environ = {**os.environ, "LC_ALL": "C", "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    done = subprocess.run(argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
        error.add_note(done.stderr.strip())
        raise error
    return done.stdout
