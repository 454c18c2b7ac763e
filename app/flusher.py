"""The flusher: a process that writes filesystems back, and may be left behind.

A syncfs whose device takes no more writes never comes back, and whoever called it cannot end, not even
killed. So it is called here, by a process that holds no lock and that nobody waits for.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

from app.freeze import ROUNDS, STALE, Note, Target, Writeback, presync
from app.host.fork import fork_child, reap, receive

LATE = 0.5
"""Seconds that its answer may be late before the flusher itself counts as hanging."""


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

    def presync(self, seconds: float, note: Note, rounds: int = ROUNDS, most_stale: int = STALE) -> Writeback:
        """``app.freeze.presync`` for at most ``seconds``. Never raises; one that died has written nothing."""
        order = {"seconds": seconds, "rounds": rounds, "most_stale": most_stale}
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

        with contextlib.suppress(OSError):  # whoever asked is gone
            done = presync(
                self._targets,
                time.monotonic() + order["seconds"],
                say,
                order["rounds"],
                order["most_stale"],
            )
            say("", hung=done.hung, failed=done.failed)
