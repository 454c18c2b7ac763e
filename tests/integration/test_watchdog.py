"""The watchdog alone, with a holder of the test's own: what it does when the holder goes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from app.host.fork import fork_child
from app.watchdog import Watchdog
from tests import scratch

pytestmark = [pytest.mark.integration, pytest.mark.root]


def test_holder_dies_with_an_answer_unread(scratch_ext4: scratch.Volume) -> None:
    """The kernel then tells of an error (ECONNRESET) before what the holder had said: that it froze."""
    mount = scratch_ext4.mount

    def holder(channel: socket.socket) -> None:
        channel.send(b"freezing 0")
        scratch.freeze(mount)
        os._exit(1)

    descriptor = os.open(mount, os.O_RDONLY)
    child = fork_child(holder, also_keep=[descriptor])
    child.channel.send(b"beat")  # an answer, which nobody reads
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert scratch.is_frozen(mount)
    reasons: list[str] = []
    watch(child.channel, child.pid, descriptor, reasons.append)
    assert not scratch.is_frozen(mount)
    assert reasons == ["the holder died"]
    os.close(descriptor)
    child.end()


def watch(channel: socket.socket, holder: int, descriptor: int, aftermath: Callable[[str], None]) -> None:
    def note(_event: str, **_facts: Any) -> None:
        pass

    Watchdog(channel, holder, [descriptor], note, ["/"], aftermath, lambda: None).watch()
