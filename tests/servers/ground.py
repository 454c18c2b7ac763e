"""Where a server is snapshotted: a scratch filesystem with its data, how it is copied, and the copies."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import scratch
from tests.integration.stage import Stage
from tests.servers.engine import Engine, Server
from tests.servers.load import Load, load

KINDS = ("btrfs", "ext4", "xfs")
"""btrfs snapshots its subvolume by itself, and nothing is frozen; ext4 and xfs are frozen and copied."""

TIMING = "[timing]\nquiesce = 20\nretries = 0\nhold = 40\nrelease = 10\n"


@dataclass(slots=True)
class Ground:
    """An engine's running server on a filesystem of its own, and all that was ever written to it."""

    engine: Engine
    volume: scratch.Volume
    server: Server
    runs: Iterator[int] = field(default_factory=itertools.count)
    loads: list[Load] = field(default_factory=list)

    @contextlib.contextmanager
    def under_load(self, here: Stage) -> Iterator[Load]:
        """Writers, for as long as the context lasts; their ledgers are kept."""
        kept = self.volume.image.parent
        with load(self.engine, self.server, kept, next(self.runs)) as writing:
            self.loads.append(writing)
            yield writing

    def acknowledged_before(self, moment: float) -> set[int]:
        """Numbers of the commits of all loads so far that were acknowledged before ``moment``."""
        return {e.number for each in self.loads for e in each.entries if e.acknowledged < moment}

    def rehearsal(self, here: Stage, seconds: float, freeze: bool = True, **settings: Any) -> Path:
        """A policy that holds the server for so many seconds, and hands off to nobody."""
        mounts = f'mounts = ["{self.volume.mount}"]\ntimeout = 30' if freeze else "enabled = false"
        return self.policy(here, mounts, f'provider = "none"\nseconds = {seconds}', **settings)

    def policy(self, here: Stage, freeze: str, snapshot: str, **settings: Any) -> Path:
        """An operator's policy for the server."""
        head = self.engine.operator(self.server, **settings)
        return here.policy(f"{head}{TIMING}[freeze]\n{freeze}\n[snapshot]\n{snapshot}\n")

    def snapshot(self, here: Stage) -> Path:
        """A policy that snapshots the server."""
        if self.volume.kind == "btrfs":
            source, destination = self.volume.mount / "data", self.volume.mount / "snapshots"
            provider = f'provider = "btrfs"\nsource = "{source}"\ndestination = "{destination}"'
            return self.policy(here, "enabled = false", provider)
        argv = ["cp", "--sparse=always", str(self.volume.image), str(self._copied)]
        provider = f'provider = "command"\nargv = {argv}'.replace("'", '"')
        return self.policy(here, f'mounts = ["{self.volume.mount}"]\ntimeout = 30', provider)

    def noting(self, here: Stage) -> Path:
        """The same, and the manifest is on the server's own filesystem, beside its data folder."""
        chosen = self.snapshot(here)
        chosen.write_text(f"{chosen.read_text()}manifest = {json.dumps(str(self.manifest))}\n")
        return chosen

    @property
    def manifest(self) -> Path:
        """Where ``noting`` puts it. In a copy: beside the data folder, under the same name."""
        return self.server.data.with_name("held.json")

    def noted(self, data: Path) -> dict[str, str]:
        """The answers that the manifest in a copy holds: all that who has nothing but the copy can know."""
        found = json.loads((data.parent / self.manifest.name).read_text())
        assert (found["complete"], found["achieved"]) == (False, None), "written before the freeze"
        (application,) = found["applications"]
        saved: dict[str, str] = application["saved"]
        return saved

    @contextlib.contextmanager
    def copy(self, report: dict[str, Any], *, in_place: bool = False) -> Iterator[Path]:
        """The data folder in a writable clone of the snapshot that was reported; gone afterwards.

        ``in_place``: at the path of the original, which must not run (not on btrfs).
        """
        mount, name = self.volume.image.with_name("restored"), self.server.data.name
        with contextlib.ExitStack() as stack:
            if self.volume.kind == "btrfs":
                taken = Path(report["snapshot"]["reference"])
                clone = taken.with_name("clone")
                _run("btrfs", "-q", "subvolume", "snapshot", taken, clone)
                stack.callback(_run, "btrfs", "-q", "subvolume", "delete", clone, taken)
                yield clone / name
                return
            stack.callback(self._copied.unlink)
            if in_place:
                mount = self.volume.mount
            else:
                mount.mkdir()
                stack.callback(mount.rmdir)
            options = "rw,nouuid" if self.volume.kind == "xfs" else "rw"
            stack.enter_context(scratch.mounted(self._copied, mount, self.volume.kind, options))
            yield mount / name

    @property
    def _copied(self) -> Path:
        return self.volume.image.with_name("copy")


@contextlib.contextmanager
def ground(engine: Engine, kind: str) -> Iterator[Ground]:
    """A new filesystem of that kind, and the engine's server running on it. Needs root."""
    with scratch.filesystem(kind, engine.megabytes) as volume:
        below = volume.mount
        if kind == "btrfs":
            below = volume.mount / "data"
            _run("btrfs", "-q", "subvolume", "create", below)
            (volume.mount / "snapshots").mkdir(mode=0o755)
        with engine.server(below / engine.name) as server:
            yield Ground(engine, volume, server)


def tools_missing(kind: str) -> str:
    """What a kind of filesystem needs and is not there; "" where nothing."""
    names = [f"mkfs.{kind}", *(["btrfs"] if kind == "btrfs" else [])]
    lacking = [name for name in names if shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    return f"needs {' and '.join(lacking)}" if lacking else ""


def _run(*argv: str | Path) -> None:
    subprocess.run(list(map(str, argv)), check=True, stdin=subprocess.DEVNULL, capture_output=True)
