"""Running before others: a starved machine must not keep our processes from thawing.

Measured on 2 cores under 16 busy processes of nice -20 (6.18): a process that wants to wake after
100 ms comes up to 1.7 s late as it is, 0.13 s at nice -10, and 0.1 ms in SCHED_RR. The class also
stands outside a control group's CPU quota, under which the extension's agent runs what it starts.
What is started for an application gets the precedence that ``app`` itself was given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

PRIORITY = 1
"""The lowest of SCHED_RR: before every ordinary process, behind all real-time ones that were there before
us. It sleeps nearly always; a bug that made it spin is bounded by sched_rt_runtime_us (sched(7))."""

NICE = -10
"""Where the kernel refuses SCHED_RR: without the right, or in a control group with no real-time budget."""

SPARED = -1000
"""oom_score_adj of what the OOM killer never takes (proc(5))."""

_OOM_SCORE = "/proc/self/oom_score_adj"

_given: tuple[int, int, int, int] | None = None
"""What ``app`` was started with: scheduling policy, its priority, nice value, oom_score_adj."""

_spared = False


def take_precedence(*, spared: bool) -> None:
    """Run before others from now on, as far as we are allowed to; ``spared``: by the OOM killer, too.

    For the calling thread, and for every thread and process that it starts: call it before any thread is
    started. Never raises: without the right, the kernel decides as for any other process.
    """
    global _given, _spared
    if _given is None:
        policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        _given = (policy, parameter.sched_priority, nice, _oom_score())
    _spared = spared
    _rise(_given)


def give_precedence_back() -> None:
    """Run as ``app`` was started, as before ``take_precedence``. Never raises."""
    global _given
    if _given is not None:
        _fall(_given)
        _given = None


@contextlib.contextmanager
def as_given() -> Iterator[None]:
    """What is started inside has the precedence that ``app`` was given, and takes no right of ours along.

    Of the scheduling, only the calling thread changes. Not SCHED_RESET_ON_FORK: that would hold for our
    own threads too, and whoever thaws in one would wait for a processor behind everybody else.
    """
    if _given is None:
        yield
        return
    _fall(_given)
    try:
        yield
    finally:
        _rise(_given)


def hasten(pid: int) -> None:
    """Let a process not wait for a processor: one that is about to be killed, or that keeps a lock.

    It dies when it runs next, and what it holds goes only then. Never raises.
    """
    if _given is not None:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(PRIORITY))


def _fall(given: tuple[int, int, int, int]) -> None:
    policy, priority, nice, score = given
    if _spared:
        _set_oom_score(score)
    # In this order: a nice value may be raised by everybody, and a class be left.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)


def _rise(given: tuple[int, int, int, int]) -> None:
    policy, _, nice, score = given
    if _spared and score > SPARED:
        _set_oom_score(SPARED)
    if policy & ~os.SCHED_RESET_ON_FORK not in (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE):
        return  # real-time already: whoever started us so knows why
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
    except OSError:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, min(nice, NICE))


def _oom_score() -> int:
    try:
        with open(_OOM_SCORE, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _set_oom_score(score: int) -> None:
    with contextlib.suppress(OSError), open(_OOM_SCORE, "w", encoding="ascii") as file:
        file.write(str(score))
