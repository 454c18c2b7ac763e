"""Law 4, seen from the kernel: while anything is frozen we open nothing, start nothing, connect nowhere."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.scratch import Volume

pytestmark = [pytest.mark.integration, pytest.mark.root]

FIFREEZE = "0xc0045877"
FITHAW = "0xc0045878"


@pytest.fixture
def traced(app_command: list[str], prefix: Path, tmp_path: Path) -> Callable[[Path], list[str]]:
    """Runs ``app run POLICY`` under strace; the system calls of all its processes, in order."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")

    def run(policy: Path) -> list[str]:
        trace = tmp_path / "trace"
        opens = "openat,open,creat,connect,execve,mkdir,rename,renameat2,unlink,unlinkat"
        watched = f"{opens},ioctl,fsync,write,pwrite64"
        argv = ["strace", "-f", "-qq", "-y", "-X", "verbose", "-e", f"trace={watched}", "-o", str(trace)]
        done = subprocess.run(
            [*argv, *app_command, "run", str(policy)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return trace.read_text(errors="replace").splitlines()

    return run


def test_nothing_is_opened_between_freeze_and_thaw(
    scratch_ext4: Volume, traced: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    database = scratch_ext4.mount / "orders.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE orders (number INTEGER)")
    policy = tmp_path / "orders.toml"
    policy.write_text(
        f'version = 1\nname = "orders"\nextends = "sqlite"\n[settings]\ndatabases = ["{database}"]\n'
        f'[freeze]\nmounts = ["{scratch_ext4.mount}"]\n[snapshot]\nprovider = "none"\nseconds = 1\n'
    )
    calls = traced(policy)
    frozen = next(n for n, line in enumerate(calls) if _is(line, FIFREEZE) and "= 0" in _rest(calls, n))
    thawed = next(n for n, line in enumerate(calls) if n > frozen and _is(line, FITHAW))
    between = [line for line in calls[frozen + 1 : thawed] if not _is(line, FIFREEZE) and not _harmless(line)]
    assert between == []
    assert any("openat(" in line for line in calls[:frozen]), "the trace sees what is opened at all"


def _is(line: str, request: str) -> bool:
    names = {FIFREEZE: "FIFREEZE", FITHAW: "FITHAW"}
    return "ioctl" in line and (request in line or names[request] in line)


def _rest(calls: list[str], number: int) -> str:
    """The call's line, and where it was interrupted in the trace, its end."""
    line = calls[number]
    if "<unfinished ...>" not in line:
        return line
    pid = line.split()[0]
    return next((more for more in calls[number + 1 :] if more.startswith(pid) and "resumed>" in more), "")


def _harmless(line: str) -> bool:
    """The journal on tmpfs, the kernel's own setting of its grace periods, and what wakes our own threads."""
    written = re.search(r"write(?:64)?\(\d+<([^>]*)>", line)
    if written:
        return (
            written.group(1) == "/sys/kernel/rcu_expedited"
            or written.group(1).endswith("/run/stillframe/journal")
            or written.group(1).startswith(("pipe:", "anon_inode:", "socket:", "UNIX"))
        )
    return "resumed>" in line or "+++" in line or "---" in line
