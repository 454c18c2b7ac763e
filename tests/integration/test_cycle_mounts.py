"""Which filesystems a cycle freezes, in what order, and what it does where one cannot be frozen.

The mounts are always named: an automatic choice would freeze the machine that runs the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import ledger, scratch
from tests.integration.stage import Event, Stage, first_commit_after, stage

pytestmark = [pytest.mark.integration, pytest.mark.root]


@pytest.fixture
def here(app_command: list[str], as_root: None) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def policy(here: Stage, mounts: list[Path], extra: str = "", seconds: float = 0.0) -> Path:
    """No application: only the freeze."""
    names = json.dumps([os.fspath(mount) for mount in mounts])
    return here.policy(
        f'name = "volumes"\nextends = "filesystem"\n{extra}\n[freeze]\nmounts = {names}\ntimeout = 20\n'
        f'[snapshot]\nprovider = "none"\nseconds = {seconds}\n'
    )


def order(events: list[Event], name: str) -> list[str]:
    """Mount points in the order of that event."""
    return [e["mount"] for e in events if e["event"] == name]


@contextlib.contextmanager
def mounted(*argv: str | Path) -> Iterator[None]:
    """``mount ARGV``, undone at the end; the last word is the mount point."""
    subprocess.run(["mount", *argv], check=True)
    try:
        yield
    finally:
        scratch.thaw(argv[-1])
        subprocess.run(["umount", argv[-1]], check=True)


def test_frozen_by_somebody_else(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """EBUSY: exit 5, the others' freeze stands, the application is released, nothing is claimed (law 3)."""
    mount = scratch_ext4.mount
    database = here.folder / "orders.db"
    with ledger.Writer("sqlite", str(database), notes=here.folder / "ledger") as writer:
        chosen = here.policy(
            f'name = "orders"\nextends = "sqlite"\n[settings]\ndatabases = ["{database}"]\n'
            f'[freeze]\nmounts = ["{mount}"]\n[snapshot]\nprovider = "none"\nseconds = 5\n'
        )
        scratch.freeze(mount)
        try:
            status, report = here.run(chosen)
            assert scratch.is_frozen(mount)
        finally:
            scratch.thaw(mount)
        first_commit_after(writer, time.monotonic(), 2)
    assert (status, report["achieved"], report["snapshot"]["state"]) == (5, "none", "busy")
    assert "somebody else" in report["snapshot"]["reason"]
    assert not report["stuck"]
    assert not [e for e in here.events() if e["event"] in ("thawed", "snapshot_begin")]


def test_one_of_several_is_busy(here: Stage, scratch_filesystem: Callable[..., scratch.Volume]) -> None:
    """What we froze before the busy one is thawed again; theirs is not."""
    ours, theirs = (scratch_filesystem("ext4", 64).mount for _ in range(2))
    scratch.freeze(theirs)
    try:
        status, _ = here.run(policy(here, [ours, theirs]))
        assert status == 5
        assert not scratch.is_frozen(ours)
        assert scratch.is_frozen(theirs)
    finally:
        scratch.thaw(theirs)


def test_not_a_mount_point(here: Stage, tmp_path: Path) -> None:
    """A folder that is none is named, before anything is held; exit 4."""
    status, _, errors = here.app("run", policy(here, [tmp_path]))
    assert status == 4
    assert f"{tmp_path} is not a mount point" in errors
    assert not here.events()
    assert not here.is_locked()


@pytest.mark.parametrize("kind", ["tmpfs"])
def test_kind_that_cannot_be_frozen(here: Stage, tmp_path: Path, kind: str) -> None:
    """A mount of such a kind is refused by name."""
    with mounted("-t", kind, "none", tmp_path):
        status, _, errors = here.app("run", policy(here, [tmp_path]))
    assert status == 4
    assert f"is {kind}, which cannot be frozen" in errors


def test_read_only_mount_is_frozen_by_its_filesystem(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """A read-only bind mount of a filesystem that is written to elsewhere counts as that filesystem."""
    view = scratch_ext4.mount.with_name("view")
    view.mkdir()
    with mounted("--bind", "-o", "ro", scratch_ext4.mount, view):
        status, report = here.run(policy(here, [view]))
    assert (status, report["achieved"]) == (0, "filesystem")


def test_filesystem_mounted_several_times_is_frozen_once(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """Bind mounts, of a folder too, and a second mount: FIFREEZE would say EBUSY to a second freeze."""
    mount = scratch_ext4.mount
    (mount / "folder").mkdir()
    names = ["bind", "part", "second"]
    for name in names:
        mount.with_name(name).mkdir()
    bind, part, second = (mount.with_name(name) for name in names)
    with (
        mounted("--bind", mount, bind),
        mounted("--bind", mount / "folder", part),
        mounted(scratch_ext4.device, second),
    ):
        status, report = here.run(policy(here, [part, second, bind, mount]))
    assert (status, report["achieved"]) == (0, "filesystem")
    assert len(order(here.events(), "freezing")) == len(report["filesystems"]) == 1


def test_nested_mounts_deepest_first(here: Stage, scratch_filesystem: Callable[..., scratch.Volume]) -> None:
    """A freeze of the outer one first would hang the inner one's writers on the way to it."""
    outer = scratch_filesystem("ext4", 64).mount
    middle, inner = outer / "middle", outer / "middle" / "inner"
    middle.mkdir()
    with mounted(scratch_filesystem("ext4", 64).device, middle):
        inner.mkdir()
        with mounted(scratch_filesystem("ext4", 64).device, inner):
            status, report = here.run(policy(here, [outer, inner, middle]))
    assert (status, report["achieved"]) == (0, "filesystem")
    wanted = [str(inner), str(middle), str(outer)]
    assert order(here.events(), "frozen") == wanted
    assert sorted(order(here.events(), "thawed")) == sorted(wanted)


@pytest.mark.parametrize(
    "name",
    ["two words", "back\\slash", "quo'te\"s", "$(reboot)", "größe", "\\040"],
    ids=["space", "backslash", "quotes", "shell", "unicode", "escape"],
)
def test_mount_point_of_any_name(here: Stage, scratch_ext4: scratch.Volume, name: str) -> None:
    """mountinfo escapes some of these; all are frozen, thawed and reported by their own name."""
    mount = scratch_ext4.mount.with_name(name)
    mount.mkdir()
    with mounted(scratch_ext4.device, mount):
        status, report = here.run(policy(here, [mount]))
        assert not scratch.is_frozen(mount)
    assert (status, report["achieved"]) == (0, "filesystem")
    assert [f["mount"] for f in report["filesystems"]] == [str(mount)]
    assert here.app("report")[0] == 0


def test_mount_point_with_a_newline(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """A policy may not name it, and says so; beside others it disturbs nobody."""
    mount = scratch_ext4.mount.with_name("new\nline")
    mount.mkdir()
    with mounted(scratch_ext4.device, mount):
        status, _, errors = here.app("run", policy(here, [mount]))
        assert status == 3
        assert "freeze.mounts" in errors
        assert "Traceback" not in errors
        status, report = here.run(policy(here, [scratch_ext4.mount]))
    assert (status, report["achieved"]) == (0, "filesystem")


def test_skipped_mount_is_left_alone(here: Stage, scratch_filesystem: Callable[..., scratch.Volume]) -> None:
    """``freeze.skip`` means the filesystem, by whichever of its mounts it is named."""
    first, second = (scratch_filesystem("ext4", 64).mount for _ in range(2))
    bind = second.with_name("bind")
    bind.mkdir()
    chosen = policy(here, [first, bind])
    chosen.write_text(chosen.read_text().replace("timeout = 20", f'timeout = 20\nskip = ["{second}"]'))
    with mounted("--bind", second, bind):
        status, report = here.run(chosen)
    assert status == 0
    assert [f["mount"] for f in report["filesystems"]] == [str(first)]


def test_journal_on_a_volume_to_freeze(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """A prefix on the very filesystem would stop the holder on its own freeze: refused (law 4)."""
    here.environ["STILLFRAME_PREFIX"] = str(scratch_ext4.mount)
    status, _, errors = here.app("run", policy(here, [scratch_ext4.mount]))
    assert status == 4
    assert "where the journal is written during the freeze" in errors


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_freezes_last_as_long_as_the_snapshot(
    here: Stage, scratch_filesystem: Callable[..., scratch.Volume], kind: str
) -> None:
    """A writer stands still for the snapshot's time and little more, on every kind of filesystem."""
    mount = scratch_filesystem(kind).mount
    with ledger.Writer("file", str(mount / "log"), notes=here.folder / "ledger") as writer:
        status, report = here.run(policy(here, [mount], seconds=0.5))
        writer.wait_for(10)
        events = here.events()
        stalled = writer.ledger.longest_stall(
            *(next(e["t"] for e in events if e["event"] == name) for name in ("freezing", "thawed"))
        )
    assert (status, report["achieved"]) == (0, "filesystem")
    assert 0.45 < stalled < 2
    assert report["filesystems"][0]["covers_snapshot"]
