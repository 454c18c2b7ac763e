"""Every hazard, made for real on scratch filesystems, is found by ``app doctor`` and heeded by every hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import scratch
from tests.integration.hazard_makers import (
    LISTENER,
    LOCKER,
    WRITER,
    disguised,
    inner_loop,
    mounted,
    named,
    started,
)
from tests.integration.stage import Stage, stage

pytestmark = [pytest.mark.integration, pytest.mark.root]

Make = Callable[..., scratch.Volume]


@pytest.fixture
def here(app_command: list[str], as_root: None) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def policy(here: Stage, *mounts: Path, severities: str = "", freeze: str = "timeout = 20") -> Path:
    """No application: only the freeze of these mounts, and a rehearsal."""
    names = json.dumps([os.fspath(mount) for mount in mounts])
    return here.policy(
        f'name = "volumes"\nextends = "filesystem"\n[freeze]\nmounts = {names}\n{freeze}\n'
        f'[snapshot]\nprovider = "none"\nseconds = 0.0\n[hazards]\n{severities}\n'
    )


def doctor(here: Stage, *words: str | Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """``app doctor --json``: exit status, and the hazards by name."""
    status, output, errors = here.app("doctor", "--json", *words)
    assert output, errors
    found = {hazard["name"]: hazard for hazard in json.loads(output)["hazards"]}
    assert status == (4 if any(h["severity"] == "fatal" for h in found.values()) else 0)
    return status, found


def refused(here: Stage, chosen: Path, *names: str) -> str:
    """``app run`` stops with exit 4 before anything is held, and names every hazard; what it said."""
    before = here.events()
    status, _, errors = here.app("run", chosen)
    assert status == 4, errors
    assert all(f"{name}: " in errors for name in names)
    assert here.events() == before
    assert not here.is_locked()
    return errors


def warned(here: Stage, chosen: Path, name: str) -> dict[str, Any]:
    """``app run`` does its work, says the warning before, and keeps it in the report."""
    status, output, errors = here.app("run", "--json", chosen)
    assert status == 0, errors
    report: dict[str, Any] = json.loads(output)
    assert f"warning: {name}: " in errors
    assert [h["severity"] for h in report["hazards"] if h["name"] == name] == ["warning"]
    assert any(line["text"].startswith(f"hazard: {name}: ") for line in report["timeline"])
    assert report["achieved"] == "filesystem"
    return report


def test_a_clean_machine_has_nothing_fatal(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """And its report has no hazard that is."""
    chosen = policy(here, scratch_ext4.mount)
    status, found = doctor(here, chosen)
    assert status == 0, found
    status, report = here.run(chosen)
    assert (status, report["achieved"]) == (0, "filesystem")
    assert not [h for h in report["hazards"] if h["severity"] == "fatal"]
    status, output, _ = here.app("doctor", chosen)
    assert (status, output.splitlines()[-2]) == (0, f"to be frozen: {scratch_ext4.mount}")


@pytest.mark.parametrize("how", ["0x10", "0x100", "0"], ids=["mount", "filesystem", "inode"])
def test_fanotify_permission_listener(here: Stage, scratch_ext4: scratch.Volume, how: str) -> None:
    """Fatal, and a policy that knows its scanner may go on."""
    mount = scratch_ext4.mount
    with started(sys.executable, "-c", LISTENER, mount, how, "0x10000") as listener:
        _, found = doctor(here, policy(here, mount))
        assert (found["fanotify"]["severity"], found["fanotify"]["pid"]) == ("fatal", listener.pid)
        assert found["fanotify"]["filesystem"] == str(mount)
        assert f"process {listener.pid}" in refused(here, policy(here, mount), "fanotify")
        warned(here, policy(here, mount, severities='fanotify = "warning"'), "fanotify")
        status, report = here.run(policy(here, mount, severities='fanotify = "ignore"'))
        assert (status, report["hazards"]) == (0, [])
    assert "fanotify" not in doctor(here, policy(here, mount))[1]


def test_fanotify_listener_that_only_watches(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """A notification (FAN_OPEN, FAN_CLOSE_WRITE) blocks nobody."""
    with started(sys.executable, "-c", LISTENER, scratch_ext4.mount, "0x10", "0x28"):
        assert "fanotify" not in doctor(here, policy(here, scratch_ext4.mount))[1]


def test_permission_listener_elsewhere(here: Stage, scratch_filesystem: Make) -> None:
    watched, frozen = (scratch_filesystem("ext4", 64).mount for _ in range(2))
    with started(sys.executable, "-c", LISTENER, watched, "0x100", "0x10000"):
        assert "fanotify" not in doctor(here, policy(here, frozen))[1]


def test_loop_file_on_a_frozen_filesystem(here: Stage, scratch_xfs: scratch.Volume) -> None:
    outer = scratch_xfs.mount
    with inner_loop(outer, outer.with_name("inner")) as image:
        _, found = doctor(here, policy(here, outer))
        assert (found["loop-file"]["severity"], found["loop-file"]["path"]) == ("warning", str(image))
        warned(here, policy(here, outer), "loop-file")
        refused(here, policy(here, outer, severities='loop-file = "fatal"'), "loop-file")


def test_loop_frozen_with_the_filesystem_of_its_file(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """At once is too late for it; mounted deeper it comes first, and all is well."""
    outer = scratch_ext4.mount
    beside, deeper = outer.with_name("inner"), outer / "a" / "b"
    with inner_loop(outer, beside):
        refused(here, policy(here, outer, beside), "loop-order")
        assert not scratch.is_frozen(beside)
    with inner_loop(outer, deeper):
        chosen = policy(here, outer, deeper)
        assert doctor(here, chosen)[1].keys() & {"loop-order", "loop-file"} == set()
        status, report = here.run(chosen)
        assert (status, report["achieved"]) == (0, "filesystem")


def test_frozen_upon_skipped(here: Stage, scratch_filesystem: Make) -> None:
    outer, other = scratch_filesystem("ext4", 64).mount, scratch_filesystem("ext4", 64)
    inner = outer / "inner"
    inner.mkdir()
    with mounted(other.device, inner):
        chosen = policy(here, inner, freeze=f'skip = ["{outer}"]')
        warned(here, chosen, "nested-mount")


def test_overlay_whose_layers_are_frozen(here: Stage, scratch_ext4: scratch.Volume) -> None:
    mount = scratch_ext4.mount
    merged = mount.with_name("merged")
    for folder in (mount / "low", mount / "up", mount / "work", merged):
        folder.mkdir()
    layers = f"lowerdir={mount}/low,upperdir={mount}/up,workdir={mount}/work"
    with mounted("-t", "overlay", "overlay", "-o", layers, merged):
        report = warned(here, policy(here, mount), "container-storage")
    assert str(merged) in str(report["hazards"])


def test_read_only_filesystem(here: Stage, scratch_ext4: scratch.Volume) -> None:
    subprocess.run(["mount", "-o", "remount,ro", scratch_ext4.mount], check=True)
    warned(here, policy(here, scratch_ext4.mount), "read-only")


def test_kind_without_freeze(here: Stage, tmp_path: Path) -> None:
    """What the hazard says in advance the kernel says too, once it is asked."""
    with mounted("-t", "ramfs", "none", tmp_path):
        refused(here, policy(here, tmp_path), "no-freeze-support")
        status, report = here.run(policy(here, tmp_path, severities='no-freeze-support = "warning"'))
    assert (status, report["snapshot"]["state"]) == (6, "refused")
    assert "not supported" in report["snapshot"]["reason"]


def test_frozen_already(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """Seen by a writer who waits; the others' freeze stands."""
    mount = scratch_ext4.mount
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, mount / "file"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdin is not None
    writer.stdout.readline()
    scratch.freeze(mount)
    try:
        assert "frozen-already" not in doctor(here, policy(here, mount))[1], "nobody waits yet"
        writer.stdin.write(b"x")
        writer.stdin.flush()
        give_up = time.monotonic() + 5
        while Path(f"/proc/{writer.pid}/stat").read_text().rpartition(") ")[2][0] != "D":
            assert time.monotonic() < give_up
            time.sleep(0.01)
        found = doctor(here, policy(here, mount))[1]
        assert (found["frozen-already"]["severity"], found["frozen-already"]["pid"]) == ("fatal", writer.pid)
        refused(here, policy(here, mount), "frozen-already")
        assert scratch.is_frozen(mount)
    finally:
        scratch.thaw(mount)
        writer.communicate()


def test_lock_of_the_extension(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """``run`` for Azure Backup, and the pre-script, leave an extension alone that is freezing."""
    azure = here.folder / "azure"
    lock = azure / "MicrosoftRecoverySvcsSafeFreezeLock" / "SafeFreezeLockFile"
    lock.parent.mkdir(parents=True)
    azure.chmod(0o755)
    nothing = "[freeze]\nenabled = false\n"
    chosen = here.policy(
        f'name = "volumes"\nextends = "filesystem"\n{nothing}'
        f'[snapshot]\nprovider = "azure-backup"\nconfig = "{azure}"\n'
    )
    compiled = here.policy(f'name = "volumes"\nextends = "filesystem"\n{nothing}', "compiled")
    binary = here.program("app", f'#!/bin/sh\nexec {here.command[0]} "$@"\n')
    here.folder.chmod(0o700)
    status, _, errors = here.app("compile", compiled, "--out", azure, "--binary", binary)
    assert status == 0, errors
    with started(sys.executable, "-c", LOCKER, lock) as owner:
        assert doctor(here, "--out", azure)[1]["extension-lock"]["pid"] == owner.pid
        refused(here, chosen, "extension-lock")
        status, _, errors = here.app("pre", "--config", azure)
        assert status == 4
        assert f"extension-lock: process {owner.pid}" in errors
        assert not here.events()
    assert "extension-lock" not in doctor(here, "--out", azure)[1]


def test_another_backup_tool(here: Stage, scratch_ext4: scratch.Volume) -> None:
    with named(here, "restic") as pid:
        report = warned(here, policy(here, scratch_ext4.mount), "backup-running")
    assert [h["pid"] for h in report["hazards"]] == [pid]
    shown = here.app("report")[1]
    assert "  hazard     backup-running: " in shown


def test_dirty_pages(here: Stage, scratch_ext4: scratch.Volume) -> None:
    """More than a slow disk writes in the second that the freeze may last."""
    chosen = policy(here, scratch_ext4.mount, freeze="timeout = 1")
    with (scratch_ext4.mount / "big").open("wb") as file:
        for _ in range(150):
            file.write(os.urandom(1 << 20))
        found = doctor(here, chosen)[1]
    assert found["dirty-pages"]["severity"] == "warning"
    assert " MB wait to be written, " in found["dirty-pages"]["what"]


def test_run_folder_on_a_disk(here: Stage, scratch_filesystem: Make) -> None:
    """On the very filesystem: fatal, whatever a policy says; on another one: a warning."""
    frozen, disk = (scratch_filesystem("ext4", 64).mount for _ in range(2))
    chosen = policy(here, frozen)
    here.environ["STILLFRAME_PREFIX"] = str(disk)
    assert doctor(here, chosen)[1]["run-on-disk"]["severity"] == "warning"
    here.environ["STILLFRAME_PREFIX"] = str(frozen)
    assert doctor(here, chosen)[1]["journal-frozen"]["severity"] == "fatal"


def test_full_run_folder(here: Stage, scratch_ext4: scratch.Volume, tmp_path: Path) -> None:
    with mounted("-t", "tmpfs", "-o", "size=1M", "none", tmp_path):
        (tmp_path / "run" / "stillframe").mkdir(parents=True)
        here.environ["STILLFRAME_PREFIX"] = str(tmp_path)
        assert doctor(here, policy(here, scratch_ext4.mount))[1]["run-full"]["severity"] == "warning"


def test_nfs_export(here: Stage, scratch_ext4: scratch.Volume) -> None:
    disguised(here, files={"/etc/exports": f"{scratch_ext4.mount}\t10.0.0.0/8(rw,sync)\n"})
    found = doctor(here, policy(here, scratch_ext4.mount))[1]["nfs-export"]
    assert (found["severity"], found["path"]) == ("warning", str(scratch_ext4.mount))


def test_auditd_whose_kernel_panics(here: Stage, scratch_ext4: scratch.Volume) -> None:
    settings, rules = f"log_file = {scratch_ext4.mount}/audit.log\n", "-D\n-b 320\n-f 2\n"
    disguised(here, files={"/etc/audit/auditd.conf": settings, "/etc/audit/audit.rules": rules})
    chosen = policy(here, scratch_ext4.mount)
    assert "auditd" not in doctor(here, chosen)[1]
    with named(here, "auditd") as pid:
        found = doctor(here, chosen)[1]["auditd"]
        assert (found["severity"], found["pid"]) == ("fatal", pid)
        assert "panics" in refused(here, chosen, "auditd")
        warned(here, policy(here, scratch_ext4.mount, severities='auditd = "warning"'), "auditd")


def test_journald_whose_watchdog_falls_due(here: Stage, scratch_ext4: scratch.Volume) -> None:
    disguised(
        here,
        files={"/etc/systemd/journald.conf.d/x.conf": "[Journal]\nStorage=persistent\n"},
        bind=(scratch_ext4.mount, "/var/log/journal"),
    )
    with named(here, "systemd-journald") as pid:
        assert "journald" not in doctor(here, policy(here, scratch_ext4.mount))[1]
        long = policy(here, scratch_ext4.mount, freeze="timeout = 200\n[timing]\nhold = 300")
        found = doctor(here, long)[1]["journald"]
    assert (found["severity"], found["pid"]) == ("warning", pid)


def test_every_fatal_hazard_is_named_at_once(here: Stage, scratch_ext4: scratch.Volume) -> None:
    mount = scratch_ext4.mount
    with (
        started(sys.executable, "-c", LISTENER, mount, "0x10", "0x10000"),
        named(here, "restic"),
    ):
        chosen = policy(here, mount, severities='backup-running = "fatal"')
        errors = refused(here, chosen, "fanotify", "backup-running")
        assert "2 hazards" in errors
