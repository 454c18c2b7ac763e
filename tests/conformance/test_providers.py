"""One suite for every snapshot provider: the contract that ``app.snapshot.Provider`` states.

A new provider needs an entry in ``STAGES``, which gives it what it needs here; without one the suite
fails. Each is held to: options it publishes, nothing wrong found late, a snapshot that holds what
was there, deadlines, an end when the hold breaks, no descriptor leaked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from app import snapshot
from app.errors import HostUnfit, SnapshotFailed
from app.plan import Level
from app.snapshot import Context, Provider
from tests import scratch
from tests.conftest import Run

pytestmark = [pytest.mark.integration, pytest.mark.root]

Make = Callable[..., scratch.Volume]


@dataclass(slots=True)
class Stage:
    """A place where one provider can work: its options, wrong ones, and how to look at what it took."""

    volume: scratch.Volume
    options: dict[str, Any]
    unfit: dict[str, Any]
    during: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    restored: Callable[[str], contextlib.AbstractContextManager[Path | None]] = field(
        default=lambda reference: contextlib.nullcontext(None)
    )
    slow: dict[str, Any] | None = None
    policy: str = ""


def _none(make: Make, tmp_path: Path) -> Stage:
    return Stage(make("ext4", 64), {}, {}, slow={"seconds": 30})


def _command(make: Make, tmp_path: Path) -> Stage:
    volume = make("ext4", 64)
    copy = tmp_path / "copy.img"

    @contextlib.contextmanager
    def restored(reference: str) -> Iterator[Path]:
        mount = tmp_path / "restored"
        mount.mkdir()
        with scratch.mounted(copy, mount, "ext4"):
            yield mount

    return Stage(
        volume,
        {"argv": ["cp", "--sparse=always", str(volume.image), str(copy)]},
        {"argv": ["no-such-program"]},
        restored=restored,
        slow={"argv": ["sleep", "30"]},
    )


def _btrfs(make: Make, tmp_path: Path) -> Stage:
    volume = make("btrfs", 256)
    source = volume.mount / "data"
    subprocess.run(["btrfs", "-q", "subvolume", "create", str(source)], check=True)
    kept = volume.mount / "snapshots"
    kept.mkdir(mode=0o700)
    inside = scratch.Volume(volume.kind, volume.image, volume.device, source)
    return Stage(
        inside,
        {"source": str(source), "destination": str(kept)},
        {"source": str(kept), "destination": str(kept)},
        restored=lambda reference: contextlib.nullcontext(Path(reference)),
    )


def _azure_backup(make: Make, tmp_path: Path) -> Stage:
    config = tmp_path / "azure"
    lock = config / "MicrosoftRecoverySvcsSafeFreezeLock" / "SafeFreezeLockFile"
    lock.parent.mkdir(parents=True)

    @contextlib.contextmanager
    def during() -> Iterator[None]:
        # The extension, seen from here: its lock is taken by another process and let go again.
        script = (
            "import fcntl,sys,time; f=open(sys.argv[1],'w'); time.sleep(0.3); "
            "fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(0.4)"
        )
        with subprocess.Popen(["/usr/bin/python3", "-c", script, str(lock)]) as extension:
            yield
            extension.wait(10)

    return Stage(
        make("ext4", 64),
        {"config": str(config), "wait": 20},
        {"config": str(tmp_path / "none")},
        during=during,
        slow={"config": str(config)},
    )


STAGES: dict[str, Callable[[Make, Path], Stage]] = {
    "none": _none,
    "command": _command,
    "btrfs": _btrfs,
    "azure-backup": _azure_backup,
}


@pytest.fixture(params=snapshot.names())
def name(request: pytest.FixtureRequest) -> str:
    """Every provider there is."""
    return str(request.param)


@pytest.fixture
def stage(name: str, scratch_filesystem: Make, tmp_path: Path) -> Stage:
    """Where this provider works."""
    assert name in STAGES, f"provider {name} has no stage here: add one, so that its contract is held"
    return STAGES[name](scratch_filesystem, tmp_path)


def made(name: str, options: dict[str, Any]) -> Provider:
    provider: Provider = snapshot.load(name).provider(options)
    return provider


def context(seconds: float = 30.0, asker: int | None = None) -> Context:
    return Context("stillframe-conformance", (), time.monotonic() + seconds, asker)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_options_are_published_and_refuse_the_unknown(name: str, stage: Stage) -> None:
    schema = snapshot.load(name).OPTIONS_SCHEMA
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(stage.options, schema)
    for key in schema["properties"]:
        assert schema["properties"][key].get("description"), f"{key} is not described"
    provider = made(name, stage.options)
    assert isinstance(provider.needs_freeze, bool)
    assert isinstance(provider.freezes_itself, bool)
    assert isinstance(provider.takes_snapshot, bool)
    assert provider.unfrozen_level in (Level.CRASH, Level.FILESYSTEM)


def test_unfit_is_found_before_the_hold(name: str, stage: Stage) -> None:
    if not stage.unfit:
        pytest.skip(f"nothing can be wrong with {name}")
    before = descriptors()
    provider = made(name, stage.unfit)
    with pytest.raises(HostUnfit):
        provider.prepare(context())
    provider.finish(context(), None)
    assert descriptors() == before


def test_prepare_and_finish_without_take_change_nothing(name: str, stage: Stage) -> None:
    before, listed = descriptors(), sorted(stage.volume.mount.parent.rglob("*"))
    provider = made(name, stage.options)
    provider.prepare(context())
    provider.finish(context(), None)
    assert descriptors() == before
    assert sorted(stage.volume.mount.parent.rglob("*")) == listed


def test_the_snapshot_holds_what_was_there(name: str, stage: Stage) -> None:
    before = descriptors()
    (stage.volume.mount / "witness").write_text("seen", encoding="utf-8")
    provider = made(name, stage.options)
    provider.prepare(context())
    frozen = provider.needs_freeze and not provider.freezes_itself
    with stage.during():
        try:
            if frozen:
                scratch.freeze(stage.volume.mount)
            taken = provider.take(context())
        finally:
            if frozen:
                assert scratch.thaw(stage.volume.mount)
    provider.finish(context(), taken)
    (stage.volume.mount / "witness").write_text("changed", encoding="utf-8")
    with stage.restored(taken.reference) as copy:
        if copy is not None:
            assert (copy / "witness").read_text(encoding="utf-8") == "seen"
    assert bool(taken.reference) == provider.takes_snapshot
    assert descriptors() == before


def test_take_ends_by_the_deadline(name: str, stage: Stage) -> None:
    if stage.slow is None:
        pytest.skip(f"{name} takes its snapshot at once")
    provider = made(name, stage.slow)
    provider.prepare(context())
    begun = time.monotonic()
    if provider.takes_snapshot:
        with pytest.raises(SnapshotFailed):
            provider.take(context(0.5))
    else:
        provider.take(context(0.5))
    assert time.monotonic() - begun < 2
    provider.finish(context(), None)


def test_take_ends_when_the_hold_breaks(name: str, stage: Stage) -> None:
    if stage.slow is None:
        pytest.skip(f"{name} takes its snapshot at once")
    provider = made(name, stage.slow)
    provider.prepare(context())
    read, write = os.pipe()
    threading.Timer(0.3, os.write, (write, b".")).start()
    begun = time.monotonic()
    with pytest.raises(SnapshotFailed, match="hold was lost"):
        provider.take(context(30, read))
    assert time.monotonic() - begun < 2
    provider.finish(context(), None)
    os.close(read)
    os.close(write)


def test_a_whole_run_reaches_the_application_level(
    name: str, stage: Stage, run_app: Run, tmp_path: Path
) -> None:
    database = stage.volume.mount / "orders.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE orders (number INTEGER)")
        connection.execute("INSERT INTO orders VALUES (42)")
        connection.commit()
    options = "\n".join(f"{key} = {_toml(value)}" for key, value in stage.options.items())
    policy = tmp_path / "orders.toml"
    policy.write_text(
        f'version = 1\nname = "orders"\nextends = "sqlite"\n[settings]\ndatabases = ["{database}"]\n'
        f'[freeze]\nmounts = ["{stage.volume.mount}"]\n[snapshot]\nprovider = "{name}"\n{options}\n',
        encoding="utf-8",
    )
    if name == "btrfs":
        policy.write_text(policy.read_text().replace(f'mounts = ["{stage.volume.mount}"]', "enabled = true"))
    with stage.during():
        done = run_app("run", "--json", policy)
    assert done.returncode == 0, done.stderr + done.stdout
    report = __import__("json").loads(done.stdout)
    assert report["achieved"] == "application"
    with stage.restored(report["snapshot"].get("reference", "")) as copy:
        if copy is not None:
            shutil.copytree(copy, tmp_path / "clone")
            proof = run_app("prove", policy, "--data", tmp_path / "clone")
            assert proof.returncode == 0, proof.stderr


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def test_the_lock_is_only_asked_about(tmp_path: Path) -> None:
    """azure-backup must not take the extension's lock, not for an instant."""
    stage_folder = tmp_path / "azure" / "MicrosoftRecoverySvcsSafeFreezeLock"
    stage_folder.mkdir(parents=True)
    lock = stage_folder / "SafeFreezeLockFile"
    lock.touch()
    provider = made("azure-backup", {"config": str(tmp_path / "azure"), "wait": 0.5})
    provider.prepare(context())
    with pytest.raises(SnapshotFailed, match="did not come"):
        provider.take(context())
    with lock.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
