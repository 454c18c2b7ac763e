"""The manifest: in the snapshot as it was when all were held, and beside it as it was after the release."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import scratch
from tests.integration.stage import Stage, stage

pytestmark = [pytest.mark.integration, pytest.mark.root]

POLICY = """
name = "count"
proven = "stand-in"
level = "application"
[[quiesce]]
mechanism = "command"
argv = ["{program}"]
expect = '^at ([0-9]+)$'
save = ["position"]
[[release]]
mechanism = "command"
argv = ["{program}"]
expect = '^at ([0-9]+)$'
save = ["end"]
proof = true
[[recover]]
mechanism = "command"
argv = ["true"]
[timing]
retries = 0
[freeze]
{mounts}
[snapshot]
manifest = "{manifest}"
{snapshot}
"""

COUNT = """#!/bin/sh
n=$(cat {file} 2>/dev/null || echo 0)
echo $((n + 1)) >{file}
echo "at $n"
"""


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(here: Stage, **words: object) -> Path:
    program = here.program("count", COUNT.format(file=here.folder / "n"))
    return here.policy(POLICY.format(program=program, **words))


@pytest.fixture(autouse=True)
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def test_it_is_in_a_clone_and_beside_it(app_command: list[str]) -> None:
    with stage(app_command) as here, scratch.filesystem("btrfs", 256) as volume:
        data = volume.mount / "data"
        subprocess.run(["btrfs", "subvolume", "create", str(data)], check=True, stdout=subprocess.DEVNULL)
        (volume.mount / "snapshots").mkdir(mode=0o700)
        snapshot = f'provider = "btrfs"\nsource = "{data}"\ndestination = "{volume.mount}/snapshots"'
        policy = write(
            here, mounts=f'mounts = ["{volume.mount}"]', manifest=data / "held.json", snapshot=snapshot
        )
        status, report = here.run(policy)
        assert status == 0, report
        clone = Path(report["snapshot"]["reference"])
        inside, beside = read(clone / "held.json"), read(Path(f"{clone}.manifest.json"))
        assert inside["hold"] == beside["hold"] == report["hold"]
        assert (inside["complete"], inside["achieved"]) == (False, None), "nobody could know it then"
        assert inside["applications"][0]["saved"] == {"position": "0"}
        assert (beside["complete"], beside["achieved"]) == (True, "application")
        assert beside["applications"][0]["saved"] == {"position": "0", "end": "1"}
        assert read(data / "held.json") == beside == read(Path(here.paths.manifest))
        assert not list(clone.glob(".*.new"))


def test_it_is_on_a_frozen_filesystem(app_command: list[str]) -> None:
    with stage(app_command) as here, scratch.filesystem("ext4", 64) as volume:
        copy = here.folder / "copy.img"
        argv = json.dumps(["cp", "--sparse=always", str(volume.image), str(copy)])
        snapshot = f'provider = "command"\nargv = {argv}'
        manifest = volume.mount / "held.json"
        policy = write(here, mounts=f'mounts = ["{volume.mount}"]', manifest=manifest, snapshot=snapshot)
        status, report = here.run(policy)
        assert status == 0, report
        restored = here.folder / "restored"
        restored.mkdir()
        with scratch.mounted(copy, restored, "ext4"):
            inside = read(restored / "held.json")
        assert inside["hold"] == report["hold"]
        assert inside["complete"] is False
        assert read(manifest)["complete"] is True


def test_a_full_disk_costs_the_manifest_and_nothing_else(app_command: list[str]) -> None:
    with stage(app_command) as here, scratch.filesystem("ext4", 64) as volume:
        with (volume.mount / "big").open("wb") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(1 << 12))
        manifest = volume.mount / "held.json"
        manifest.write_bytes(b"")
        policy = write(
            here, mounts=f'mounts = ["{volume.mount}"]', manifest=manifest, snapshot='provider = "none"'
        )
        status, report = here.run(policy)
        assert (status, report["achieved"]) == (0, "application"), report
        assert any("No space left" in wrong for wrong in report["manifest_failed"]), report
        assert manifest.read_bytes() == b"", "whole or not at all"


def test_a_folder_of_somebody_else_is_refused(app_command: list[str]) -> None:
    with stage(app_command) as here, scratch.filesystem("ext4", 64) as volume:
        folder = volume.mount / "theirs"
        folder.mkdir()
        os.chown(folder, 1000, 1000)
        policy = write(
            here,
            mounts=f'mounts = ["{volume.mount}"]',
            manifest=folder / "x.json",
            snapshot='provider = "none"',
        )
        status, _, errors = here.app("run", policy)
        assert status == 4, errors
        assert str(folder) in errors
        assert not (here.folder / "n").exists(), "nothing was quiesced"


def test_a_restored_machine_keeps_it(app_command: list[str]) -> None:
    """What a snapshot holds of the hold is undone at its first boot, and the positions in it stay."""
    with stage(app_command) as here, stage(app_command) as restored, scratch.filesystem("ext4", 64) as volume:
        restored.prefix.mkdir(mode=0o755)
        argv = json.dumps(["cp", "--archive", str(here.prefix / "var"), str(restored.prefix)])
        manifest = volume.mount / "held.json"
        snapshot = f'provider = "command"\nargv = {argv}'
        policy = write(here, mounts=f'mounts = ["{volume.mount}"]', manifest=manifest, snapshot=snapshot)
        status, report = here.run(policy)
        assert status == 0, report
        inside, beside = read(Path(restored.paths.manifest)), read(manifest)
        assert inside["applications"][0]["saved"] == {"position": "0"}
        assert Path(restored.paths.outstanding).exists(), "taken in mid-hold"
        status, output, errors = restored.app("recover", "--json")
        assert (status, json.loads(output)["released"]) == (0, ["count"]), errors
        assert read(Path(restored.paths.manifest)) == inside
        assert read(manifest) == beside
        assert not restored.app("recover")[0]
