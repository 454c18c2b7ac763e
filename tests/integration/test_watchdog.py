"""The watchdog alone, with a holder of the test's own: what it does when the holder goes."""

from __future__ import annotations

import os
import socket
import threading
import time
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


def test_a_freeze_that_succeeds_late_is_undone_while_the_report_is_written_there(
    scratch_filesystem: Callable[..., scratch.Volume],
) -> None:
    """The holder is killed, but cannot end; what it was about to freeze is frozen only then."""
    mount, stuck = (scratch_filesystem("ext4", 64).mount for _ in range(2))

    def holder(channel: socket.socket) -> None:
        channel.send(b"freezing 0")
        (stuck / "file").touch()  # nor does it end when it is killed

    scratch.freeze(stuck)
    descriptor = os.open(mount, os.O_RDONLY)
    child = fork_child(holder, also_keep=[descriptor])
    took: list[float] = []

    def aftermath(_reason: str) -> None:
        scratch.freeze(mount)
        begun = time.monotonic()
        (mount / "report").touch()
        took.append(time.monotonic() - begun)
        scratch.thaw(stuck)

    safety = threading.Timer(10, lambda: [scratch.thaw(place) for place in (mount, stuck)])
    safety.start()
    watch(child.channel, child.pid, descriptor, aftermath)
    safety.cancel()
    assert took[0] < 1
    assert not scratch.is_frozen(mount)
    os.close(descriptor)
    child.end()


def test_what_goes_wrong_with_the_report_keeps_nothing_frozen(scratch_ext4: scratch.Volume) -> None:
    mount = scratch_ext4.mount
    stuck = os.open(mount, os.O_RDONLY)

    def holder(channel: socket.socket) -> None:
        channel.send(b"freezing 0")
        scratch.freeze(mount)
        os._exit(1)

    def aftermath(_reason: str) -> None:
        raise OSError("read-only")

    child = fork_child(holder, also_keep=[stuck])
    watch(child.channel, child.pid, stuck, aftermath)
    assert not scratch.is_frozen(mount)
    os.close(stuck)
    child.end()


def test_a_thaw_that_the_holder_told_of_is_noted(scratch_ext4: scratch.Volume) -> None:
    """It may have been killed before it had done so itself: the report would call it stuck."""

    def holder(channel: socket.socket) -> None:
        channel.send(b"freezing 0")
        channel.send(b"thawed 0")
        os._exit(1)

    descriptor = os.open(scratch_ext4.mount, os.O_RDONLY)
    child = fork_child(holder, also_keep=[descriptor])
    notes: list[str] = []
    watch(child.channel, child.pid, descriptor, lambda _: None, notes.append)
    assert notes == ["not_frozen", "watchdog"]
    os.close(descriptor)
    child.end()


def watch(
    channel: socket.socket,
    holder: int,
    descriptor: int,
    aftermath: Callable[[str], None],
    noted: Callable[[str], object] = lambda _: None,
) -> None:
    def note(event: str, **_facts: Any) -> None:
        noted(event)

    Watchdog(channel, holder, [descriptor], note, ["/"], aftermath, lambda: None).watch()
