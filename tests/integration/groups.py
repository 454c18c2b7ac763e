"""Control groups of the tests' own, of either version, and busy processes in them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class NoGroup(Exception):
    """This machine has none to give; why."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group at the top of its hierarchy. ``version``: 1 or 2."""

    path: Path
    version: int

    def enter(self) -> list[str]:
        """A command that runs what follows it in this group."""
        return ["/bin/sh", "-c", f'echo $$ >{self.path}/cgroup.procs && exec "$@"', "sh"]

    def limit_memory(self, size: int) -> None:
        """At most ``size`` bytes, and no swap."""
        if self.version == 1:
            (self.path / "memory.limit_in_bytes").write_text(str(size))
        else:
            (self.path / "memory.max").write_text(str(size))
            with contextlib.suppress(OSError):
                (self.path / "memory.swap.max").write_text("0")

    def oom_kills(self) -> int:
        """How many processes of it the OOM killer took."""
        file = self.path / ("memory.oom_control" if self.version == 1 else "memory.events")
        lines = dict(line.split() for line in file.read_text().splitlines())
        return int(lines["oom_kill"])

    def grant_real_time(self, microseconds: int) -> None:
        """What real-time processes of it may run in each second. Raises NoGroup where there is no budget."""
        file = self.path / "cpu.rt_runtime_us"
        if not file.exists():
            raise NoGroup("the kernel has no real-time budgets for groups (CONFIG_RT_GROUP_SCHED)")
        file.write_text(str(microseconds))


@contextlib.contextmanager
def group(controller: str) -> Iterator[Group]:
    """A group under ``controller`` (cpu, memory). Raises NoGroup."""
    name = f"sf-{controller}-{os.getpid()}"
    if (ROOT / controller / "cgroup.procs").exists():
        made = Group(ROOT / controller / name, 1)
    elif controller in _words(ROOT / "cgroup.controllers"):
        with contextlib.suppress(OSError):
            (ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
        if controller not in _words(ROOT / "cgroup.subtree_control"):
            raise NoGroup(f"the controller {controller} cannot be handed on at {ROOT}")
        made = Group(ROOT / name, 2)
    else:
        raise NoGroup(f"there is no controller {controller} below {ROOT}")
    try:
        made.path.mkdir()
    except OSError as error:
        raise NoGroup(f"{made.path}: {error.strerror}") from None
    try:
        yield made
    finally:
        _remove(made.path)


@contextlib.contextmanager
def busy(number: int, nice: int, where: Group) -> Iterator[None]:
    """That many processes that never sleep, all let loose at once, as long as the context lasts."""
    argv = [*where.enter(), "nice", "-n", str(nice), "/bin/sh", "-c", "kill -STOP $$; while :; do :; done"]
    processes = [subprocess.Popen(argv, stdin=subprocess.DEVNULL) for _ in range(number)]
    try:
        for process in processes:
            while _state(process.pid) != "T":
                assert process.poll() is None
                time.sleep(0.002)
        for process in processes:
            process.send_signal(signal.SIGCONT)
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _remove(path: Path) -> None:
    give_up = time.monotonic() + 5
    while True:
        try:
            path.rmdir()
            return
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)
