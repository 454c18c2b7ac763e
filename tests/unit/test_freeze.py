"""Freezing with a kernel that is played: order, failure, a FIFREEZE that hangs. Real ones: integration."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable

import pytest

from app import freeze
from app.freeze import FIFREEZE, FITHAW, FreezeFailed, Freezer, Target
from app.host.mounts import Mount


def target(path: str, number: int) -> Target:
    return Target(Mount(number, f"8:{number}", "/", path, "ext4", "/dev/x", frozenset(), frozenset()), number)


class Kernel:
    """Remembers what is frozen; ``on_freeze`` may block or raise for a descriptor."""

    def __init__(self) -> None:
        self.frozen: set[int] = set()
        self.calls: list[tuple[int, int]] = []
        self.on_freeze: dict[int, Callable[[], None]] = {}

    def ioctl(self, descriptor: int, request: int, argument: int = 0) -> int:
        self.calls.append((descriptor, request))
        if request == FIFREEZE:
            if action := self.on_freeze.get(descriptor):
                action()
            if descriptor in self.frozen:
                raise OSError(errno.EBUSY, "busy")
            self.frozen.add(descriptor)
        elif request == FITHAW:
            if descriptor not in self.frozen:
                raise OSError(errno.EINVAL, "not frozen")
            self.frozen.discard(descriptor)
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    played = Kernel()
    monkeypatch.setattr(fcntl, "ioctl", played.ioctl)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return played


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def come_back(freezer: Freezer, kernel: Kernel) -> None:
    """Wait until what hung has been undone: a thread that outlives its test would call the real ioctl."""
    end = soon()
    while freezer.unthawed() or kernel.frozen:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_numbers_of_the_header() -> None:
    # _IOWR('X', nr, int): direction 3, size 4, type 'X'.
    assert (3 << 30) | (4 << 16) | (ord("X") << 8) | 119 == FIFREEZE
    assert (3 << 30) | (4 << 16) | (ord("X") << 8) | 120 == FITHAW


def test_deeper_ones_first_and_root_last(kernel: Kernel) -> None:
    notes: list[str] = []
    targets = [target("/", 1), target("/a", 2), target("/a/b", 3)]
    freezer = Freezer(targets, lambda event, **facts: notes.append(f"{event} {facts['mount']}"))
    freezer.freeze(soon())
    assert [d for d, r in kernel.calls if r == FIFREEZE] == [3, 2, 1]
    assert freezer.held()
    assert freezer.thaw(soon()) == []
    assert kernel.frozen == set()
    assert notes[0] == "freezing /a/b"
    assert set(notes[-3:]) == {"thawed /", "thawed /a", "thawed /a/b"}


def test_one_that_somebody_else_froze(kernel: Kernel) -> None:
    kernel.frozen.add(1)
    freezer = Freezer([target("/", 1), target("/a", 2)], lambda event, **facts: None)
    with pytest.raises(FreezeFailed, match="somebody else") as caught:
        freezer.freeze(soon())
    assert caught.value.busy
    assert kernel.frozen == {1}, "theirs stays frozen, ours does not"
    assert (1, FITHAW) not in kernel.calls


def test_one_that_cannot_be_frozen(kernel: Kernel) -> None:
    def refuse() -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    kernel.on_freeze[1] = refuse
    with pytest.raises(FreezeFailed, match="Operation not supported"):
        Freezer([target("/", 1), target("/a", 2)], lambda event, **facts: None).freeze(soon())
    assert kernel.frozen == set()


def test_one_that_hangs_is_undone_when_it_comes_back(kernel: Kernel) -> None:
    back = threading.Event()

    def hang() -> None:
        back.wait(10)

    kernel.on_freeze[1] = hang
    notes: list[tuple[str, str]] = []
    freezer = Freezer([target("/", 1), target("/a", 2)], lambda event, **f: notes.append((event, f["mount"])))
    begun = time.monotonic()
    with pytest.raises(FreezeFailed, match="did not return") as caught:
        freezer.freeze(soon(0.2))
    assert time.monotonic() - begun < 2
    assert caught.value.hung == ("/",)
    assert kernel.frozen == set(), "what was frozen already is thawed at once"
    assert freezer.unthawed() == ["/"]
    assert ("freeze_hung", "/") in notes
    back.set()
    come_back(freezer, kernel)
    assert ("thawed", "/") in notes


def test_giving_up_between_two_depths_freezes_no_more(kernel: Kernel) -> None:
    freezer = Freezer([target("/", 1), target("/a", 2)], lambda event, **facts: None)

    def give_up() -> None:
        freezer.thaw(soon())

    kernel.on_freeze[2] = give_up
    with pytest.raises(FreezeFailed):
        freezer.freeze(soon())
    time.sleep(0.05)
    assert (1, FIFREEZE) not in kernel.calls
    assert kernel.frozen == set()


def test_only_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(FreezeFailed, match="only root"):
        Freezer([target("/", 1)], lambda event, **facts: None).freeze(soon())


def test_threads_are_ready_before_anything_is_frozen(kernel: Kernel) -> None:
    freezer = Freezer([target("/a", 1), target("/b", 2)], lambda event, **facts: None)
    freezer.prepare()
    ready = threading.active_count()
    freezer.prepare()
    freezer.freeze(soon())
    assert threading.active_count() == ready
    assert freezer.thaw(soon()) == []


class _Libc:
    def __init__(self, lengths: list[float]) -> None:
        self.lengths = lengths
        self.rounds = 0

    def syncfs(self, descriptor: int) -> int:
        time.sleep(self.lengths[min(self.rounds, len(self.lengths) - 1)])
        self.rounds += 1
        return 0


@pytest.mark.parametrize(
    ("lengths", "rounds"), [([0.0], 1), ([0.3, 0.1, 0.0], 3), ([0.1], 3), ([0.2, 0.15, 0.1, 0.06, 0.0], 5)]
)
def test_presync_goes_on_while_it_helps(
    monkeypatch: pytest.MonkeyPatch, lengths: list[float], rounds: int
) -> None:
    libc = _Libc(lengths)
    monkeypatch.setattr(freeze, "_libc", lambda: libc)
    freeze.presync([target("/", 1)], soon(), lambda event, **facts: None)
    assert libc.rounds == rounds


def test_presync_names_what_has_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    back = threading.Event()

    class Stuck:
        def syncfs(self, descriptor: int) -> int:
            if descriptor == 2:
                back.wait(10)
            return 0

    monkeypatch.setattr(freeze, "_libc", Stuck)
    written = freeze.presync([target("/a", 1), target("/b", 2)], soon(0.1), lambda event, **facts: None)
    back.set()
    assert (written.hung, written.failed, written.complete) == (("/b",), {}, False)


def test_presync_names_what_could_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def syncfs(self, descriptor: int) -> int:
            ctypes.set_errno(errno.EIO)
            return -1 if descriptor == 1 else 0

    monkeypatch.setattr(freeze, "_libc", Broken)
    written = freeze.presync([target("/a", 1), target("/b", 2)], soon(), lambda event, **facts: None)
    assert (written.hung, written.failed) == ((), {"/a": "Input/output error"})
    assert not written.complete


def test_presync_of_a_steady_load_stops_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = _Libc([0.1])
    monkeypatch.setattr(freeze, "_libc", lambda: libc)
    written = freeze.presync([target("/", 1)], soon(), lambda event, **facts: None, most_stale=1)
    assert (libc.rounds, len(written.rounds), written.complete) == (2, 2, True)


def test_a_thaw_waits_for_a_freeze_that_is_about_to_come_back(kernel: Kernel) -> None:
    def slow() -> None:
        time.sleep(0.2)

    kernel.on_freeze[1] = slow
    notes: list[str] = []
    freezer = Freezer([target("/", 1)], lambda event, **facts: notes.append(event))

    def freeze_in_vain() -> None:
        with pytest.raises(FreezeFailed):
            freezer.freeze(soon(0.05))

    thread = threading.Thread(target=freeze_in_vain)
    thread.start()
    time.sleep(0.02)
    assert freezer.thaw(soon()) == []
    assert kernel.frozen == set()
    assert "thawed" in notes
    assert freezer.unthawed() == []
    thread.join()


def test_one_that_hangs_holds_up_one_thaw_only(kernel: Kernel) -> None:
    hanging = threading.Event()

    def hang() -> None:
        hanging.wait(10)

    kernel.on_freeze[2] = hang
    freezer = Freezer([target("/", 1), target("/a", 2)], lambda event, **facts: None)
    with pytest.raises(FreezeFailed, match="did not return"):
        freezer.freeze(soon(0.1))
    begun = time.monotonic()
    freezer.thaw(soon())
    freezer.thaw(soon())
    assert time.monotonic() - begun < freeze.PATIENCE / 2, "it has been waited for"
    assert freezer.unthawed() == ["/a"]
    hanging.set()
    come_back(freezer, kernel)


def test_one_that_is_not_ours_is_said_to_be_so_while_another_is_still_being_frozen(kernel: Kernel) -> None:
    """Whoever survives us would thaw it."""
    kernel.frozen.add(1)
    slow = threading.Event()

    def wait() -> None:
        slow.wait(10)

    kernel.on_freeze[2] = wait
    notes: list[tuple[str, str]] = []
    freezer = Freezer(
        [target("/a", 1), target("/b", 2)], lambda event, **f: notes.append((event, f["mount"]))
    )

    def freeze_in_vain() -> None:
        with pytest.raises(FreezeFailed, match="somebody else"):
            freezer.freeze(soon())

    thread = threading.Thread(target=freeze_in_vain)
    thread.start()
    end = soon()
    while ("not_frozen", "/a") not in notes:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert ("frozen", "/b") not in notes
    slow.set()
    thread.join()
    assert kernel.frozen == {1}


def test_presync_goes_on_for_as_many_rounds_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the first was quick: what was written since then makes the freeze wait."""
    libc = _Libc([0.0])
    monkeypatch.setattr(freeze, "_libc", lambda: libc)
    freeze.presync([target("/", 1)], soon(), lambda event, **facts: None, rounds=3, least=3)
    assert libc.rounds == 3
