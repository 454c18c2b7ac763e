"""Control groups of our own, with a process in them, in either version of the kernel's interface."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_RECIPE = """\
[cgroup]
groups = ["{name}"]
[[quiesce]]
mechanism = "cgroup"
action = "note"
save = "before"
[[quiesce]]
mechanism = "cgroup"
action = "freeze"
was = "{{before}}"
{more}[[verify]]
mechanism = "cgroup"
action = "verify"
proof = true
[[release]]
mechanism = "cgroup"
action = "thaw"
was = "{{before}}"
[[recover]]
mechanism = "cgroup"
action = "thaw"
was = "{{before}}"
"""


def recipe(name: str, more: str = "") -> str:
    """The part of a policy that freezes a group for the hold; ``more``: further steps, after the freeze."""
    return _RECIPE.format(name=name, more=more)


@dataclass(frozen=True, slots=True)
class Group:
    """A group with one process in it that counts; ``name`` is its path in the hierarchy."""

    folder: Path
    name: str
    process: subprocess.Popen[bytes]
    count: Path

    def is_at_work(self, seconds: float = 0.3) -> bool:
        """Whether its process gets anywhere within that time."""
        before = self.count.read_bytes()
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if self.count.read_bytes() != before:
                return True
            time.sleep(0.01)
        return False

    def freeze(self, *, frozen: bool) -> None:
        """As somebody else would, and wait until it is so."""
        new = (self.folder / "cgroup.freeze").exists()
        words = ("1", "0") if new else ("FROZEN", "THAWED")
        file = self.folder / ("cgroup.freeze" if new else "freezer.state")
        file.write_text(words[0 if frozen else 1])
        give_up = time.monotonic() + 5
        while time.monotonic() < give_up and self.is_at_work(0.1) is frozen:
            time.sleep(0.01)


def hierarchy(version: int) -> Path | None:
    """Where the hierarchy with a freezer is mounted, by version (1 or 2); None if there is none."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if (version, kind) == (2, "cgroup2"):
            return Path(fields.split()[4])
        if (version, kind) == (1, "cgroup") and "freezer" in options.split(","):
            return Path(fields.split()[4])
    return None


def missing(version: int) -> str:
    """What is lacking for a group of that version; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root"
    top = hierarchy(version)
    if top is None or not os.access(top, os.W_OK):
        return f"needs control groups of version {version} with a freezer"
    return ""


@contextlib.contextmanager
def group(version: int, count: Path) -> Iterator[Group]:
    """A group whose process writes to the file ``count`` some hundred times a second."""
    top = hierarchy(version)
    assert top is not None
    name = f"stillframe-{os.getpid()}-{time.monotonic_ns()}"
    folder = top / name
    folder.mkdir()
    count.write_text("0")
    body = 'n=0; while :; do n=$((n+1)); echo $n >"$1"; sleep 0.01; done'
    process = subprocess.Popen(["sh", "-c", body, "sh", str(count)], stdin=subprocess.DEVNULL)
    try:
        (folder / "cgroup.procs").write_text(str(process.pid))
        made = Group(folder, name, process, count)
        assert made.is_at_work(5)
        yield made
    finally:
        for file, word in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
            if (folder / file).exists():
                (folder / file).write_text(word)
        process.kill()
        process.wait()
        give_up = time.monotonic() + 5
        while folder.exists() and time.monotonic() < give_up:
            with contextlib.suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    os.kill(int(pid), 9)
                folder.rmdir()
            time.sleep(0.02)
