"""The manifest: who was held, in which session, at which position, in a file that is in the snapshot too.

Written before the freeze, so that whoever finds a snapshot learns what it is; and once more after the
release, when what only that reveals is known (where a backup ended, whether the hold was unbroken). The
second version replaces the first on the live disk and stands beside the snapshot where a provider
names a place for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from app.document import dump
from app.errors import HostUnfit
from app.host import trust
from app.paths import Paths
from app.plan import Plan

FORMAT = 1

_OF_REPORT = ("hold", "kind", "version", "plan", "started", "requested")
_OF_APPLICATION = ("name", "policy", "server_version", "variant", "role", "sessions", "saved")


class Manifest:
    """The manifests of one hold; their folders are open since before it."""

    def __init__(self, plan: Plan, paths: Paths) -> None:
        """Raises HostUnfit where somebody else could write in a folder that the plan names."""
        self._places: list[tuple[str, int, str]] = []
        for path in (paths.manifest, *plan.snapshot.manifests):
            folder, name = os.path.split(path)
            if path == paths.manifest:
                opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            else:
                opened = trust.open_folder(folder) if os.geteuid() == 0 else _open(folder)
            self._places.append((path, opened, name))

    @property
    def descriptors(self) -> list[int]:
        """The open folders, for whoever is to have them too."""
        return [folder for _, folder, _ in self._places]

    def write(self, content: Mapping[str, Any]) -> list[str]:
        """Write all of them, each whole or not at all; what went wrong, a sentence each. Never raises."""
        text = dump(content)
        wrong = []
        for path, folder, name in self._places:
            try:
                _replace(text, name, folder)
            except OSError as error:
                wrong.append(f"{path}: {error.strerror}")
        return wrong

    def close(self) -> None:
        """Close the folders."""
        for folder in self.descriptors:
            os.close(folder)
        self._places.clear()


def before(report: Mapping[str, Any]) -> dict[str, Any]:
    """What is known once all applications are held. ``achieved`` is not: it is proven at the release."""
    return {**_common(report), "achieved": None, "complete": False}


def after(report: Mapping[str, Any]) -> dict[str, Any]:
    """What is known once all is released."""
    return {
        **_common(report),
        "achieved": report["achieved"],
        "because": report["because"],
        "snapshot": report["snapshot"],
        "complete": True,
    }


def put_beside(path: str, content: Mapping[str, Any]) -> None:
    """Write a manifest at ``path``, in a folder that was checked before the hold. Raises OSError."""
    folder, name = os.path.split(path)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _replace(dump(content), name, opened)
    finally:
        os.close(opened)


def _common(report: Mapping[str, Any]) -> dict[str, Any]:
    applications: Sequence[Mapping[str, Any]] = report["applications"]
    return {
        "manifest": FORMAT,
        **{key: report[key] for key in _OF_REPORT},
        "applications": [{key: a[key] for key in _OF_APPLICATION} for a in applications],
    }


def _replace(text: str, name: str, folder: int) -> None:
    # No fsync: before a snapshot the freeze, or the writeback in its place, brings it to the disk.
    new = f".{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new, flags, 0o600, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise


def _open(folder: str) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostUnfit(
            f"{folder}: {error.strerror}", "name an existing folder for snapshot.manifest"
        ) from error
