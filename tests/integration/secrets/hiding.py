"""Secrets stand in the memory of the keeper and of its client, and nowhere else on the machine.

A canary is the password of a real server. During a hold, after it, and after a kill, it is looked for in the
arguments and environments of all processes, in the memory of those of ours that must not know it, and in
every file that was written.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from tests.integration.stage import Cycle, Stage


def new_canary() -> str:
    """A password with all that has to be quoted somewhere; the end of it is unlike anything else."""
    return f'it\'s "{{x}}" & #ä%$:\\n\\ {os.urandom(8).hex()}canary'


def secret_file(here: Stage, canary: str) -> Path:
    path = here.folder / "password"
    path.write_text(f"{canary}\n")
    path.chmod(0o600)
    return path


def seen_by_everybody(tail: bytes) -> list[str]:
    """Arguments and environments of processes that hold it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for name in ("cmdline", "environ", "comm"):
                with contextlib.suppress(OSError):
                    if tail in (entry / name).read_bytes():
                        found.append(f"{entry}/{name}")
    return found


def in_memory(pid: int, tail: bytes) -> bool:
    """Whether a process has it anywhere in its memory."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r.* ([0-9]+)\s*(.*)$", line)
            if match and not match.group(4).startswith(("[vvar", "[vsyscall", "[vdso")):
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(int(match.group(1), 16))
                    if tail in memory.read(int(match.group(2), 16) - int(match.group(1), 16)):
                        return True
    return False


def written(tail: bytes, *places: Path, but: Path | None = None) -> list[Path]:
    """Files that hold it, among these and below folders among these."""
    found: list[Path] = []
    for place in places:
        below = place.rglob("*") if place.is_dir() else (place,)
        files = (path for path in below if path.is_file() and not path.is_symlink())
        found += [path for path in files if path != but and tail in path.read_bytes()]
    return found


def check_hidden(here: Stage, cycle: Cycle, canary: str, held: bool, session: bool = True) -> None:
    """It is nowhere but where it may be; ``held``: and there it really is. ``session``: a client is there."""
    tail = canary[-22:].encode()
    assert seen_by_everybody(tail) == []
    assert written(tail, here.folder, but=here.folder / "password") == []
    if held:
        for role in ("app", "holder", "watchdog"):
            assert not in_memory(cycle.pid(role), tail), role
        assert in_memory(cycle.pid("keeper"), tail), "the search finds what is there"
        for role in ("keeper", *(("client",) if session else ())):
            limits = Path(f"/proc/{cycle.pid(role)}/limits").read_text()
            assert re.search(r"Max core file size +1 ", limits), limits
