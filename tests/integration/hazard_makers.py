"""What hazards are made of, for real: listeners, locks, loop devices, and daemons of a name.

A daemon that this machine lacks is played by a program of its name with the daemon's own files, in a
mount namespace of its own.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests import scratch
from tests.integration.stage import Stage

LISTENER = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
group = libc.fanotify_init(0x4, os.O_RDONLY)  # FAN_CLASS_CONTENT
how, mask = int(sys.argv[2], 16), ctypes.c_uint64(int(sys.argv[3], 16))
assert libc.fanotify_mark(group, 0x1 | how, mask, -100, sys.argv[1].encode()) == 0, ctypes.get_errno()
print("ready", flush=True)
while True:
    data = os.read(group, 4096)
    while data:
        length, _, _, _, mask, descriptor, pid = struct.unpack("IBBHQii", data[:24])
        if mask & 0x70000:
            os.write(group, struct.pack("iI", descriptor, 1))  # FAN_ALLOW
        os.close(descriptor)
        data = data[length:]
"""
"""A virus scanner that allows everything. Marks: 0x10 a mount, 0x100 a filesystem (linux/fanotify.h)."""

WRITER = """
import sys
file = open(sys.argv[1], "wb", 0)
print("ready", flush=True)
sys.stdin.read(1)
file.write(b"x")
"""
"""Opens before the freeze, and writes when it is told to."""

LOCKER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("ready", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def started(*argv: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A program that prints one line when it is ready; killed at the end."""
    process = subprocess.Popen([*map(str, argv)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def named(here: Stage, name: str) -> Iterator[int]:
    """A process of that name; its number."""
    program = here.folder / name
    shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([program, "600"])
    try:
        give_up = time.monotonic() + 5
        while Path(f"/proc/{process.pid}/comm").read_text().strip() != name[:15]:
            assert time.monotonic() < give_up
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def mounted(*argv: str | Path) -> Iterator[None]:
    """``mount ARGV``, undone at the end; the last word is the mount point."""
    subprocess.run(["mount", *argv], check=True)
    try:
        yield
    finally:
        scratch.thaw(argv[-1])
        subprocess.run(["umount", argv[-1]], check=True)


def disguised(here: Stage, *, files: dict[str, str], bind: tuple[Path, str] | None = None) -> None:
    """Let ``app`` see other files in /etc and /var/log, in a mount namespace of its own."""
    script = []
    for top in ("/etc", "/var/log"):
        layer = here.folder / f"layer{top.replace('/', '-')}"
        (layer / "work").mkdir(parents=True)
        for path, text in files.items():
            if path.startswith(f"{top}/"):
                file = layer / "upper" / path.removeprefix(f"{top}/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        (layer / "upper").mkdir(exist_ok=True)
        script.append(
            f"mount -t overlay overlay -o lowerdir={top},upperdir={layer}/upper,workdir={layer}/work {top}"
        )
    if bind is not None:
        script.append(f"mkdir -p {bind[1]} && mount --bind {bind[0]} {bind[1]}")
    command = [*("unshare", "--mount", "sh", "-ec"), "\n".join([*script, 'exec "$@"']), "sh"]
    here.command = [*command, *here.command]


@contextlib.contextmanager
def inner_loop(outer: Path, mount: Path) -> Iterator[Path]:
    """A filesystem in a file on ``outer``, mounted at ``mount``."""
    image = outer / "inner.img"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", image], check=True)
    mount.mkdir(parents=True)
    with scratch.mounted(image, mount, "ext4"):
        yield image
