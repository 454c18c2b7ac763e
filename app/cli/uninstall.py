"""``app uninstall``: what ``app install`` wrote, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from app import deployment, hold, journal
from app.cli.install import image_root
from app.cli.output import emit, json_option
from app.errors import Exit, HostUnfit
from app.paths import CONFIG_DIRECTORY, Paths, paths
from app.verify.manifest import read_manifest


@click.command("uninstall")
@click.option("--root", default="", metavar="IMAGE", help="Remove from below this folder.")
@click.option("--purge", is_flag=True, help="Remove the reports and the logs too.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")
@json_option
def command(root: str, purge: bool, dry_run: bool, as_json: bool) -> None:
    """Remove what app install wrote.

    A file that somebody else has changed since stays, and is named. Folders that app install made
    go when they are empty. Reports and logs stay unless --purge is given. What app compile wrote
    is not touched: remove it first, or the framework calls a binary that is gone. Exit status 1 if
    a file was kept; 5 while a hold is running.
    """
    image = image_root(root)
    where = paths() if not image else paths({})
    if not image and not dry_run:
        _refuse_during_hold(where)
    removal = deployment.plan_removal(image)
    runtime = [where.lib, where.log] if purge else []
    # The folder of an image's own /run may be that of the machine that is running: not ours to touch.
    runtime += [] if image else [where.run]
    folders = [folder for folder in runtime if os.path.lexists(image + folder)]
    called = removal is not None and _framework_calls(image, removal.installed.binary)
    if not dry_run:
        folders = [folder for folder in folders if deployment.remove_folder(folder, image)]
        folders += deployment.remove(image, removal) if removal else []
    data = {
        "root": image,
        "dry_run": dry_run,
        "removed": [*removal.remove, deployment.MANIFEST] if removal else [],
        "folders": folders,
        "kept": list(removal.keep) if removal else [],
        "missing": list(removal.missing) if removal else [],
        "still_called": called,
    }
    emit(data, _text(image, removal, folders, called, dry_run), as_json)
    sys.exit(int(Exit.DIFFERS if removal and removal.keep else Exit.DONE))


def _text(
    image: str, removal: deployment.Removal | None, folders: Sequence[str], called: bool, dry_run: bool
) -> str:
    word = "would remove" if dry_run else "removed"
    removed = [*removal.remove, deployment.MANIFEST] if removal else []
    lines = [f"{word} {image}{path}" for path in [*removed, *folders]]
    if removal is None:
        return "\n".join([*lines, f"{image or 'this machine'}: nothing is installed"])
    lines += [f"{image}{path} was gone already" for path in removal.missing]
    lines += [f"kept {image}{path}: somebody else has changed it" for path in removal.keep]
    if called:
        config = f"{image}{CONFIG_DIRECTORY}/VMSnapshotScriptPluginConfig.json"
        lines.append(f"note: the framework's scripts still call {removal.installed.binary}, and will fail")
        lines.append(f"  hint: remove {config}")
    return "\n".join(lines)


def _refuse_during_hold(where: Paths) -> None:
    """Raise Busy during a hold, HostUnfit where one left something behind; else keep the lock."""
    if os.path.isdir(where.run):
        hold.take_lock(where)
    events = journal.read(where.journal)
    left = journal.frozen_mounts(events) or journal.quiesced_applications(events)
    if left or not journal.ended(events) or os.path.lexists(where.outstanding):
        raise HostUnfit(
            "a hold died and left something behind; nothing was removed", "run 'app recover' first"
        )


def _framework_calls(image: str, binary: str) -> bool:
    """Whether what app compile wrote at its usual place calls ``binary``."""
    try:
        return read_manifest(CONFIG_DIRECTORY, image).binary == binary
    except HostUnfit:
        return False
