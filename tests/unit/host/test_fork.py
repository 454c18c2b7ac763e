"""The channels between our processes, when the one at the other end dies in the midst of a word."""

from __future__ import annotations

import socket

import pytest

from app.host.fork import receive


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def test_the_end_of_a_channel() -> None:
    ours, theirs = pair()
    with ours:
        theirs.send(b"end")
        theirs.close()
        assert [receive(ours, 100), receive(ours, 100)] == [b"end", b""]


def test_what_it_said_last_is_heard_where_it_died_with_our_word_unread() -> None:
    """A holder is killed before it has read an answer: what it said of a freeze must not be lost with it."""
    ours, theirs = pair()
    with ours:
        ours.send(b"beat")
        theirs.send(b"freezing 0")
        theirs.send(b"deadline 7")
        theirs.close()
        assert [receive(ours, 100) for _ in range(4)] == [b"freezing 0", b"deadline 7", b"", b""]


def test_nothing_yet() -> None:
    ours, theirs = pair()
    with ours, theirs, pytest.raises(BlockingIOError):
        receive(ours, 100, socket.MSG_DONTWAIT)
