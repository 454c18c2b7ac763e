"""The flusher: a process that writes filesystems back, and may be left behind.

A syncfs whose device takes no more writes never comes back, and whoever called it cannot end, not even
killed. So it is called here, by a process that holds no lock and that nobody waits for.

Where there is much to write, sync(2) goes before: syncfs(2) begins ext4's commit while the data is still on
its way (fs/sync.c sync_filesystem()), and until that has arrived whoever changes an inode of the commit
waits, an appending writer for as long as the device's queue takes. sync(2) writes all data first, and commits
then (ksys_sync()): with 1.5 GB writers waited for 10 to 20 ms instead of 60 to 170.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

from app.freeze import ROUNDS, STALE, Note, Target, Writeback, presync
from app.host.fork import fork_child, reap, receive
from app.host.mounts import read_mounts

LATE = 0.5
"""Seconds that its answer may be late before the flusher itself counts as hanging."""

MUCH = 64 << 20
"""Bytes of dirty pages; less is written in no time."""

LEAST_RATE = 60e6
"""Bytes a second that any disk writes; see app.host.hazards.ours."""

SYNC_SECONDS = 5.0
"""For sync(2), beyond what its bytes take: it also waits for filesystems that are not ours, and goes on alone
then."""

JOURNALLED = frozenset({"ext3", "ext4"})
"""Types whose commit waits for data."""

REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "lustre", "glusterfs", "ocfs2", "gfs2", "virtiofs"}
)
"""Types with a server behind, for which sync(2) could wait for ever; FUSE is one, too."""


class Flusher:
    """Forked at once, so that it stands ready; ended by ``close``, or left behind if it hangs."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = list(targets)
        self._child = fork_child(
            self._serve, also_keep=[t.descriptor for t in self._targets], session=True, may_hang=True
        )
        self.pid = self._child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let it end; one that hangs in the kernel does so once it comes back."""
        self._child.channel.close()
        reap(self.pid, 0.0)

    def presync(
        self,
        seconds: float,
        note: Note,
        rounds: int = ROUNDS,
        most_stale: int = STALE,
        *,
        least: int = 1,
        gently: bool = False,
    ) -> Writeback:
        """``app.freeze.presync`` for at most ``seconds``. Never raises; one that died has written nothing.

        ``gently``: sync(2) before, if it is worth it. It writes all of the machine's, so not during a hold.
        """
        order = {
            "seconds": seconds,
            "rounds": rounds,
            "most_stale": most_stale,
            "least": least,
            "gently": gently,
        }
        took: list[float] = []
        end = time.monotonic() + seconds + LATE
        poll = select.poll()
        poll.register(self._child.channel, select.POLLIN)
        with contextlib.suppress(OSError):
            self._child.channel.send(json.dumps(order).encode())
            while poll.poll(max(0.0, end - time.monotonic()) * 1000):
                data = receive(self._child.channel, 1 << 20)
                if not data:
                    break
                message: dict[str, Any] = json.loads(data)
                if "round" in message:
                    took.append(message["seconds"])
                    note("presync", **message)
                    continue
                for path in message["hung"]:
                    note("presync_hung", mount=path, seconds=round(seconds, 3))
                for path, reason in message["failed"].items():
                    note("presync_failed", mount=path, reason=reason)
                return Writeback(tuple(took), tuple(message["hung"]), message["failed"])
        note("flusher_lost")
        return Writeback(tuple(took), (), {t.mount.path: "the flusher died" for t in self._targets})

    def _serve(self, channel: socket.socket) -> None:
        while data := receive(channel, 4096):
            # In a thread, so that the end of who asked is seen at once.
            threading.Thread(target=self._obey, args=(channel, json.loads(data)), daemon=True).start()

    def _obey(self, channel: socket.socket, order: dict[str, Any]) -> None:
        def say(_event: str, **facts: Any) -> None:
            channel.send(json.dumps(facts).encode())

        deadline = time.monotonic() + order["seconds"]
        if order["gently"] and self._is_worth_a_sync():
            sync = threading.Thread(target=ctypes.CDLL(None).sync, daemon=True)
            sync.start()
            sync.join(min(SYNC_SECONDS + _dirty() / LEAST_RATE, order["seconds"] / 2))
        with contextlib.suppress(OSError):  # whoever asked is gone
            limits = {key: order[key] for key in ("rounds", "most_stale", "least")}
            done = presync(self._targets, deadline, say, **limits)
            say("", hung=done.hung, failed=done.failed)

    def _is_worth_a_sync(self) -> bool:
        if not any(target.mount.kind in JOURNALLED for target in self._targets):
            return False
        kinds = {mount.kind for mount in read_mounts()}
        if any(kind in REMOTE or kind == "fuse" or kind.startswith("fuse.") for kind in kinds):
            return False
        return much_is_dirty()


def much_is_dirty() -> bool:
    """Whether the machine has so many dirty pages that a freeze would take noticeably longer for them."""
    return _dirty() > MUCH


def _dirty() -> int:
    """Bytes of the whole machine's dirty pages (proc_meminfo(5)); 0 where that cannot be read."""
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("Dirty:"):
                return int(line.split()[1]) << 10
    return 0
