"""The extension's freeze, re-created from measured and published facts, to be the other side of ours.

Nothing of ``app`` is imported, so that both can be wrong in different ways.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests import scratch

LOCK = "MicrosoftRecoverySvcsSafeFreezeLock/SafeFreezeLockFile"
"""Below /etc/azure."""


@contextlib.contextmanager
def safe_freeze(
    folder: Path, mounts: Sequence[Path | str], seconds: float, scale: float = 1.0
) -> Iterator[None]:
    """The extension's freeze: its lock, its wait, one mount after the other, deepest (last) first.

    No sync before. On any failure every mount on the list is thawed, frozen by us or not, and
    OSError raised. After ``seconds`` everything is thawed by itself, snapshot or not.
    """
    lock = folder / LOCK
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(3 * scale)
        order = [str(mount) for mount in mounts][::-1]
        bell = threading.Timer(seconds, lambda: [scratch.thaw(mount) for mount in order])
        try:
            for mount in order:
                scratch.freeze(mount)
            bell.start()
            time.sleep(2 * scale)  # it polls every 2 s for the signal that all is frozen
            yield
        finally:
            bell.cancel()
            for mount in order:
                scratch.thaw(mount)
