"""The ways to freeze and thaw that are measured against each other; the snapshot takes no time in any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import extension_sequence, kernel_alone
from tests.bench.pair import Pair, compiled

Way = Callable[[Sequence[Path]], float]
"""Freezes and thaws the filesystems mounted there; seconds that they were held, where it says so, else 0."""

OURS, PLAIN, EXTENSION, PAIR, KERNEL = "app run", "fsfreeze", "extension", "ext. + pair", "kernel alone"

POLICY = """version = 1
name = "bench"
extends = "filesystem"
[freeze]
mounts = {mounts}
[snapshot]
provider = "none"
"""


@dataclass(frozen=True, slots=True)
class Ours:
    """``app run`` of a policy without an application, handing off to nobody."""

    command: str
    folder: Path

    def __call__(self, mounts: Sequence[Path]) -> float:
        """One cycle; from the first FIFREEZE's order to the last FITHAW's end, by its journal."""
        policy = self.folder / "bench.toml"
        policy.write_text(POLICY.format(mounts=json.dumps([*map(str, mounts)])), encoding="utf-8")
        done = subprocess.run(
            [self.command, "run", "--json", "--quiet", str(policy)],
            env={**os.environ, "STILLFRAME_PREFIX": str(self.folder / "prefix")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        report: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        if done.returncode not in (0, 1) or report.get("achieved") != "filesystem":
            raise RuntimeError(f"app run ended with {done.returncode}: {done.stderr}{report.get('because')}")
        at = {
            event: [line["at"] for line in report["timeline"] if line["event"] == event]
            for event in ("freezing", "thawed")
        }
        return float(max(at["thawed"]) - min(at["freezing"]))


def plain(mounts: Sequence[Path]) -> float:
    """``fsfreeze -f`` of each, the deepest first, and ``-u`` the other way round."""
    try:
        for mount in mounts:
            subprocess.run(["fsfreeze", "-f", str(mount)], check=True)
    finally:
        thawed = [
            subprocess.run(["fsfreeze", "-u", str(mount)], check=False).returncode
            for mount in reversed(mounts)
        ]
    if any(thawed):
        raise RuntimeError("fsfreeze -u failed")
    return 0.0


def alone(mounts: Sequence[Path]) -> float:
    """The kernel's part and nothing else (``tests.bench.kernel_alone``); what it says it took."""
    argv = [sys.executable, "-I", "-S", kernel_alone.__file__, *map(str, mounts)]
    done = subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return float(done.stdout)


@dataclass(frozen=True, slots=True)
class Extension:
    """The backup extension's own sequence (``tests.bench.extension_sequence``)."""

    folder: Path

    def __call__(self, mounts: Sequence[Path]) -> float:
        """One freeze and thaw."""
        program = [sys.executable, extension_sequence.__file__, str(self.folder / "SafeFreezeLockFile")]
        subprocess.run([*program, *map(str, mounts)], check=True, stdin=subprocess.DEVNULL)
        return 0.0


@dataclass(frozen=True, slots=True)
class Paired:
    """The extension's sequence between a compiled pair, whose pre-script writes back before."""

    extension: Extension
    pair: Pair

    def __call__(self, mounts: Sequence[Path]) -> float:
        """``pre.sh``, one freeze and thaw, ``post.sh``."""
        self.pair.pre()
        try:
            return self.extension(mounts)
        finally:
            self.pair.post()


def ways(command: str, folder: Path) -> dict[str, Way]:
    """All of them by name. ``folder``: on a tmpfs, where nothing is frozen."""
    extension = Extension(folder)
    pair = compiled(command, 'version = 1\nname = "bench"\nextends = "filesystem"\n', folder)
    return {
        OURS: Ours(command, folder),
        PLAIN: plain,
        KERNEL: alone,
        EXTENSION: extension,
        PAIR: Paired(extension, pair),
    }
