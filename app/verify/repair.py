"""``app verify --fix``: repairs what is safe to repair, and never changes content.

A mode is set by the open descriptor where nobody but root could have written the file meanwhile.
A file that somebody else owned, or could write, may still be open for writing elsewhere: it is
written anew, with the same bytes, where the manifest vouches for them. Everything else is left,
with its repair command, to the operator.
"""

from __future__ import annotations

import hashlib
import os
import stat

from app.errors import StillframeError
from app.host import trust
from app.paths import CONFIG_DIRECTORY
from app.verify.finding import Finding
from app.verify.manifest import FOLDER, Manifest, read_manifest

_REPAIRABLE = (trust.OWNER, trust.MODE, trust.WRITABLE, trust.LINKS)


def repair(findings: list[Finding], directory: str = CONFIG_DIRECTORY, root: str = "") -> list[str]:
    """Repair what ``findings`` (of ``check``) name and is safe; one sentence for each thing done."""
    root, directory = root.rstrip("/"), directory.rstrip("/")
    done: list[str] = []
    folder = f"{directory}/{FOLDER}"
    wrong = {finding.path: finding.mode for finding in findings if finding.kind in _REPAIRABLE}
    if root + folder in wrong:
        done += _repair_folder(folder, root)
    # The manifest first: it vouches for the others.
    first = f"{root}{folder}/manifest.json"
    for path in sorted(wrong, key=lambda path: path != first):
        mode = wrong[path]
        if mode is not None and path != root + folder:
            done += _repair_file(path.removeprefix(root), mode, root, _manifest(directory, root))
    return done


def _manifest(directory: str, root: str) -> Manifest | None:
    try:
        return read_manifest(directory, root)
    except StillframeError:
        return None


def _repair_folder(folder: str, root: str) -> list[str]:
    descriptor, flaws = trust.examine(folder, mode=0o700, folder=True, root=root)
    if descriptor < 0:
        return []
    try:
        if any(not flaw.own for flaw in flaws):
            return []
        before = os.fstat(descriptor)
        _set(descriptor, 0o700)
        return [f"{root}{folder}: {_change(before, os.fstat(descriptor))}"]
    finally:
        os.close(descriptor)


def _repair_file(path: str, mode: int, root: str, manifest: Manifest | None) -> list[str]:
    descriptor, flaws = trust.examine(path, mode=mode, single=True, root=root)
    if descriptor < 0:
        return []
    try:
        if any(not flaw.own for flaw in flaws):
            return []  # a folder on the way is wrong: whoever can write there would undo it
        before = os.fstat(descriptor)
        entry = None if manifest is None else manifest.entry(path)
        if before.st_uid in trust.owners() and not before.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            if stat.S_IMODE(before.st_mode) != mode:
                _set(descriptor, mode)
                return [f"{root}{path}: {_change(before, os.fstat(descriptor))}"]
            if before.st_nlink == 1:
                return []
        content = trust.read_open(descriptor, path)
        if entry is None or hashlib.sha256(content).hexdigest() != entry.sha256:
            return []
    finally:
        os.close(descriptor)
    from app.files import File
    from app.install import write_set

    write_set(root, [File(path, mode, content)])
    return [
        f"{root}{path}: written anew with the same bytes, owner root, mode {mode:o} (others could write it)"
    ]


def _set(descriptor: int, mode: int) -> None:
    if os.geteuid() == 0:
        os.fchown(descriptor, 0, 0)
    os.fchmod(descriptor, mode)


def _change(before: os.stat_result, after: os.stat_result) -> str:
    changes = []
    if before.st_uid != after.st_uid:
        changes.append(f"owner {before.st_uid} -> {after.st_uid}")
    if before.st_mode != after.st_mode:
        changes.append(f"mode {stat.S_IMODE(before.st_mode):o} -> {stat.S_IMODE(after.st_mode):o}")
    return ", ".join(changes) or "nothing left to change"
