"""A real container of podman's, with the programs of this machine in it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SHOWN = 'for p in /proc/[0-9]*; do tr "\\0" " " <$p/cmdline && echo; done 2>/dev/null'
"""The command lines of all that runs in a container; those that have ended have none."""


@dataclass(frozen=True, slots=True)
class Container:
    """A running container. ``podman``: the program with which it is reached; root's alone."""

    podman: Path
    name: str

    def through(self, user: str = "root") -> list[str]:
        """What stands before a program that is to run in it."""
        return [str(self.podman), "exec", "--interactive", "--user", user, self.name]

    def run(self, *argv: str, user: str = "root") -> str:
        """What a program in it printed. Raises CalledProcessError."""
        done = subprocess.run(
            [*self.through(user), *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done.stdout

    def running(self, words: str) -> list[str]:
        """Command lines in it that hold ``words``."""
        lines = self.run("sh", "-c", SHOWN).splitlines()
        return [line.strip() for line in lines if words in line and SHOWN[:20] not in line]

    def await_end(self, words: str, seconds: float) -> None:
        """AssertionError if something with ``words`` in its command line runs after ``seconds``."""
        give_up = time.monotonic() + seconds
        while found := self.running(words):
            assert time.monotonic() < give_up, found


def missing() -> str:
    """What this machine lacks for a container; empty if nothing."""
    return ", ".join(name for name in ("podman", "runc", "conmon") if shutil.which(name) is None)


@contextlib.contextmanager
def container(
    name: str, argv: Sequence[str], volumes: Sequence[str] = (), user: str = "root"
) -> Iterator[Container]:
    """A container that runs ``argv``, without a network; gone afterwards."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="sf-pod-", dir="/dev/shm"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        podman = folder / "podman"
        store = f"--root={folder}/store --runroot={folder}/run --tmpdir={folder}/tmp"
        podman.write_text(
            "#!/bin/sh\n"
            f"exec podman --runtime=runc --cgroup-manager=cgroupfs --storage-driver=vfs {store} "
            '--events-backend=none "$@"\n'
        )
        podman.chmod(0o755)
        # The defaults of podman are above what a machine like this one allows.
        limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]
        mounts = [f"--volume={volume}" for volume in ("/usr:/usr:ro", *volumes)]
        stack.callback(_remove, podman, name, folder / "conmon")
        how = [
            "--network=none",
            "--log-driver=none",
            f"--user={user}",
            f"--cgroup-parent={name}",
            f"--conmon-pidfile={folder}/conmon",
        ]
        root = _root(folder / "root")
        _run(podman, "run", "--detach", f"--name={name}", *how, *limits, *mounts, "--rootfs", root, *argv)
        yield Container(podman, name)


def _remove(podman: Path, name: str, monitor: Path) -> None:
    """End and remove a container, and see whoever monitors it end: it tidies up, with files of its own."""
    number = monitor.read_text() if monitor.exists() else "none"
    subprocess.run([podman, "rm", "--force", "--time=0", name], capture_output=True)
    give_up = time.monotonic() + 10
    while Path("/proc", number).exists() and time.monotonic() < give_up:
        time.sleep(0.02)
    # podman leaves what it made in every hierarchy.
    for top in (*Path("/sys/fs/cgroup").glob(name), *Path("/sys/fs/cgroup").glob(f"*/{name}")):
        for group in sorted((top, *filter(Path.is_dir, top.rglob("*"))), key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):
                group.rmdir()


def _root(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o755)
    for name in ("dev", "etc", "proc", "run", "sys", "tmp", "usr", "var"):
        (folder / name).mkdir()
    (folder / "tmp").chmod(0o1777)
    for name in ("bin", "lib", "lib64", "sbin"):
        (folder / name).symlink_to(f"usr/{name}")
    for name in ("group", "ld.so.cache", "localtime", "nsswitch.conf", "passwd"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), folder / "etc" / name)
    return folder


def _run(*argv: object) -> None:
    done = subprocess.run(list(map(str, argv)), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, list(map(str, argv)))
        error.add_note(done.stderr)
        raise error
