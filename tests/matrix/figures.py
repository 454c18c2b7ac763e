"""How long thawing and releasing took, by who was struck and how."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from tests.matrix.laws import Outcome


def table(outcomes: Sequence[Outcome]) -> str:
    """Seconds from the blow until writes and commits were accepted again, where they were held up by then."""
    rows: dict[tuple[str, str], list[Outcome]] = collections.defaultdict(list)
    for outcome in outcomes:
        assert outcome.blow is not None
        if outcome.hit:
            rows[outcome.blow.role, outcome.blow.signal].append(outcome)
    lines = [f"{'victim':10} {'signal':9} {'blows':>5}   {'thawed after (s)':26} {'released after (s)':26}"]
    lines.append(f"{'':26}   {_heading()} {_heading()}")
    for (role, signal), found in sorted(rows.items()):
        thawed = _summary([o.thawed for o in found])
        released = _summary([o.released for o in found])
        lines.append(f"{role:10} {signal:9} {len(found):5}   {thawed} {released}")
    missed = sum(not o.hit for o in outcomes)
    lines.append(f"{missed} came too late: their victim had ended, and nothing was lost")
    return "\n".join(lines)


def _heading() -> str:
    return f"{'n':>4} {'median':>6} {'p95':>6} {'max':>6} "


def _summary(found: Sequence[float | None]) -> str:
    times = sorted(t for t in found if t is not None)
    if not times:
        return f"{0:4} {'':6} {'':6} {'':6} "
    p95 = times[min(len(times) - 1, round(0.95 * (len(times) - 1)))]
    return f"{len(times):4} {times[len(times) // 2]:6.3f} {p95:6.3f} {times[-1]:6.3f} "
