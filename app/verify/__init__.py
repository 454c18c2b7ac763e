"""Holds owners, modes, links, digests and locations on a VM (or in an image) against the rules.

``pre``, ``post`` and ``run`` call ``check`` first: it takes about a millisecond, imports neither
click nor jsonschema, changes nothing, and never raises for what it finds on the disk.
"""

from __future__ import annotations

import os

from app.paths import CONFIG_DIRECTORY
from app.verify.config import check_config
from app.verify.finding import ERROR, WARNING, Finding, Findings, refusal
from app.verify.manifest import Manifest, check_manifest, check_plan, load_plan_text, read_manifest

__all__ = [
    "ERROR",
    "WARNING",
    "Finding",
    "Manifest",
    "check",
    "check_plan",
    "demand",
    "load_plan_text",
    "read_manifest",
    "refusal",
]


def check(directory: str = CONFIG_DIRECTORY, root: str = "") -> list[Finding]:
    """Everything that is wrong with what was compiled to ``directory``; [] where nothing is.

    ``root``: an image folder; ``directory`` and all paths in files are then meant below it.
    """
    directory = directory.rstrip("/")
    found = Findings(root)
    config = check_config(directory, found)
    for name in ("VMSnapshotPluginHost.conf", "vmbackup.conf"):
        # configparser costs more than all else here, and mostly neither file is there.
        if os.path.lexists(f"{found.root}{directory}/{name}"):
            from app.verify import ini

            if name == ini.HOST:
                ini.check_host(directory, config, found)
            else:
                ini.check_backup(directory, found)
    check_manifest(directory, config, found)
    return sorted(found.all, key=lambda finding: finding.severity != ERROR)


def demand(directory: str = CONFIG_DIRECTORY, root: str = "") -> None:
    """Raise HostUnfit with what is wrong, if an error is found."""
    error = refusal(check(directory, root))
    if error is not None:
        raise error
