"""The time budget (law 8): attempts, retries, hold and release against the framework's limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.plan import Application, Freeze
from app.policy.vocabulary import LARGEST_TIMEOUT
from app.policy.wording import seconds

START_SECONDS = 10
"""Starting the binary, checking permissions and connecting, and the framework's two polling loops."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Terms that add up, each with its own words: ``10 (start)``, ``3 x 30 (orders quiesce)``."""

    terms: tuple[tuple[str, float], ...]

    @property
    def total(self) -> float:
        """Seconds."""
        return sum(value for _, value in self.terms)

    def __str__(self) -> str:
        return f"{' + '.join(words for words, _ in self.terms)} = {seconds(self.total)} s"


@dataclass(frozen=True, slots=True)
class Budget:
    """How long each part of a hold may take at most, seconds."""

    pre: Sum
    hold: Sum
    post: Sum
    timeout_seconds: int

    @property
    def whole(self) -> Sum:
        """From the start of the pre-script to the end of the post-script."""
        return Sum(
            (
                (f"{seconds(self.pre.total)} (pre)", self.pre.total),
                (f"{seconds(self.hold.total)} (hold)", self.hold.total),
                (f"{seconds(self.post.total)} (post)", self.post.total),
            )
        )


@dataclass(frozen=True, slots=True)
class Overrun:
    """A limit that does not hold: whose policy decides it, under which key, and what is wrong."""

    application: str
    key: str
    message: str
    hint: str


def make_budget(applications: Sequence[Application], timeout_seconds: int | None) -> Budget:
    """The sums of a plan; ``timeout_seconds`` None computes the smallest that both scripts need."""
    quiesce = _longest(applications, _quiesce_seconds)
    release = _longest(applications, _release_seconds)
    start = (f"{START_SECONDS} (start)", float(START_SECONDS))
    pre = Sum((start, *map(_quiesce_term, quiesce), *_release_terms(release, "rollback")))
    post = Sum((start, *_release_terms(release, "release")))
    longest = max(applications, key=lambda a: a.timing.hold, default=None)
    held = 0.0 if longest is None else longest.timing.hold
    hold = Sum(((f"{seconds(held)} (hold{f' of {longest.name}' if longest else ''})", held),))
    needed = math.ceil(max(pre.total, post.total))
    return Budget(pre, hold, post, needed if timeout_seconds is None else timeout_seconds)


def find_overruns(
    budget: Budget, applications: Sequence[Application], freeze: Freeze, *, given: bool
) -> list[Overrun]:
    """Every limit that the budget breaks; ``given``: the timeout stands in a policy."""
    out: list[Overrun] = []
    last = max(applications, key=lambda a: _quiesce_seconds(a) + _release_seconds(a), default=None)
    owner = last.name if last else ""
    limit = budget.timeout_seconds if given else LARGEST_TIMEOUT
    limit_words = f"timeoutInSeconds = {limit}" if given else f"the framework's limit of {limit} s"
    hint = "lower timing.quiesce, timing.retries or timing.release"
    if given:
        hint += f", or raise framework.timeout_seconds (at most {LARGEST_TIMEOUT})"
    for script, total in (("pre-script", budget.pre), ("post-script", budget.post)):
        if total.total > limit:
            out.append(Overrun(owner, "timeout", f"the {script} needs {total}, over {limit_words}", hint))
    if not out and budget.whole.total > LARGEST_TIMEOUT:
        out.append(
            Overrun(
                owner,
                "timing",
                f"the whole hold needs {budget.whole}, over {LARGEST_TIMEOUT} s",
                "lower timing.hold, timing.quiesce, timing.retries or timing.release",
            )
        )
    short = [a for a in applications if freeze.enabled and a.timing.hold < freeze.timeout]
    out += [
        Overrun(
            application.name,
            "hold",
            f"{seconds(application.timing.hold)} s is shorter than the longest freeze, "
            f"freeze.timeout = {seconds(freeze.timeout)} s",
            "the application would be released while filesystems are still frozen: "
            "raise timing.hold, or lower freeze.timeout",
        )
        for application in short
    ]
    return out


def _quiesce_seconds(application: Application) -> float:
    if not any(variant.quiesce for variant in application.variants):
        return 0.0
    return (application.timing.retries + 1) * application.timing.quiesce


def _release_seconds(application: Application) -> float:
    if not any(variant.release for variant in application.variants):
        return 0.0
    return application.timing.release


def _quiesce_term(application: Application) -> tuple[str, float]:
    attempts, each = application.timing.retries + 1, seconds(application.timing.quiesce)
    return f"{attempts} x {each} ({application.name} quiesce)", _quiesce_seconds(application)


def _release_terms(path: Sequence[Application], word: str) -> list[tuple[str, float]]:
    def words(application: Application) -> str:
        if word == "release":
            return f"{application.name} release"
        return word if len(path) == 1 else f"{word} of {application.name}"

    return [(f"{seconds(a.timing.release)} ({words(a)})", a.timing.release) for a in path]


def _longest(applications: Sequence[Application], cost: Callable[[Application], float]) -> list[Application]:
    """The chain through ``after`` that costs most, without members that cost nothing."""
    best: dict[str, tuple[float, list[Application]]] = {}
    for application in applications:  # in order: what comes after stands later
        before = max(
            (best[name] for name in application.after if name in best),
            key=lambda pair: pair[0],
            default=(0.0, []),
        )
        own = cost(application)
        chain = [*before[1], application] if own else before[1]
        best[application.name] = (before[0] + own, chain)
    return max(best.values(), key=lambda pair: pair[0], default=(0.0, []))[1]
