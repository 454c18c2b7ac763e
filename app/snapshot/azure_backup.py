"""``azure-backup``: hand off to the Azure Backup extension, which freezes and snapshots by itself.

Nothing in a guest can ask the service for a backup, so ``take`` waits until the extension has been
here: it locks (fcntl) its SafeFreezeLockFile before it freezes and unlocks it after the thaw. We
hold the applications meanwhile and freeze nothing: the extension would thaw every filesystem if it
found one frozen. Start the backup in the portal, or with ``az backup protection backup-now``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from app.errors import HostUnfit, SnapshotFailed
from app.host.locks import EXTENSION_FOLDER, EXTENSION_LOCK, lock_owner
from app.plan import Level, Options
from app.snapshot import Context, Taken

OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "wait": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1800,
            "description": "seconds to wait for the extension; the hold's own deadline if absent",
        },
        "config": {
            "type": "string",
            "pattern": "^/",
            "description": "the extension's folder; /etc/azure if absent",
        },
    },
}


class AzureBackup:
    """Waits for the extension's lock to be taken and let go."""

    needs_freeze = False
    freezes_itself = True
    takes_snapshot = True
    unfrozen_level = Level.FILESYSTEM

    def __init__(self, options: Options) -> None:
        self._wait = float(options.get("wait", 1800))
        self._folder = options.get("config", EXTENSION_FOLDER)

    def prepare(self, context: Context) -> None:
        """See that the extension's folder is there."""
        if not os.path.isdir(self._folder):
            raise HostUnfit(
                f"{self._folder} is not there: the Azure Backup extension has never run on this machine",
                "enable backup for the VM, or choose another snapshot.provider",
            )

    def take(self, context: Context) -> Taken:
        """Wait for the lock to be taken and then let go."""
        end = context.until(self._wait)
        locked_by = 0
        while time.monotonic() < end:
            owner = self._owner()
            if owner and not locked_by:
                locked_by = owner
            elif locked_by and not owner:
                return Taken("azure-backup", {"extension_pid": locked_by})
            context.pause(0.02)
        what = "did not finish" if locked_by else "did not come"
        raise SnapshotFailed(
            f"the Azure Backup extension {what} while the applications were held",
            "start the backup (az backup protection backup-now), and raise timing.hold if it is slow to come",
        )

    def finish(self, context: Context, taken: Taken | None) -> Mapping[str, Any]:
        """Nothing was opened."""
        return {}

    def _owner(self) -> int:
        """Process that holds the lock, 0 if none. Asks only: taking it would stop the extension."""
        try:
            return lock_owner(f"{self._folder}/{EXTENSION_LOCK}")
        except OSError as error:
            raise SnapshotFailed(f"{self._folder}/{EXTENSION_LOCK}: {error.strerror}") from error


def provider(options: Options) -> AzureBackup:
    """The provider for these options."""
    return AzureBackup(options)
