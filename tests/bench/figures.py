"""What was measured, as a table, as JSON and as a picture, and held against what is aimed at."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench import looks
from tests.bench.looks import Look
from tests.bench.machine import Machine
from tests.bench.picture import Panel, Point, svg
from tests.bench.release import Latency
from tests.bench.stalls import MOST, Measured
from tests.bench.ways import EXTENSION, KERNEL, OURS, PAIR, PLAIN

ONE = 1 / 20
"""Ours is to be at most this part of the extension's, with 1.5 GB of dirty pages on one filesystem."""

EIGHT = 1 / 50
"""The same on eight filesystems."""

MANY = 3.0
"""32 filesystems are to be held at most so many times as long as one."""

BEYOND = 0.02
"""Seconds that post.sh may take beyond the server's own release."""

HEAD = "How long writers stand still"


@dataclass(frozen=True, slots=True)
class Aim:
    """Something that is aimed at, and what was measured: reached where it is not more than the limit."""

    what: str
    value: float
    limit: float
    said: str

    @property
    def reached(self) -> bool:
        """Whether it was."""
        return self.value <= self.limit

    def line(self) -> str:
        """For people."""
        return f"{self.said} ({'reached' if self.reached else 'NOT reached'})"


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of the bench."""

    machine: Machine
    stalls: Sequence[Measured]
    release: Sequence[Latency]
    look: Look

    def aims(self) -> list[Aim]:
        """Every aim that was measured."""
        found = []
        for kind in dict.fromkeys(m.case.kind for m in self.stalls):
            found += self._against_extension(kind, 1, ONE) + self._against_extension(kind, 8, EIGHT)
            one, many = self._of(kind, 1, MOST, OURS), self._of(kind, 32, MOST, OURS)
            if one and many:
                ratio = many.held_median / one.held_median
                said = (
                    f"{kind}, 32 filesystems held {many.held_median * 1000:.1f} ms, one "
                    f"{one.held_median * 1000:.1f} ms: {ratio:.1f} times{self._alone(kind)}; at most {MANY:g}"
                )
                found.append(Aim(f"{kind}: 32 filesystems held against one", ratio, MANY, said))
        for latency in self.release:
            said = (
                f"{latency.server}: {latency.until} {statistics.median(latency.ours) * 1000:.1f} ms after "
                f"post.sh began, {statistics.median(latency.alone) * 1000:.1f} ms after the server's own: "
                f"{latency.beyond * 1000:.1f} ms beyond; at most {BEYOND * 1000:g}"
            )
            found.append(Aim(f"{latency.server}: post.sh beyond the server", latency.beyond, BEYOND, said))
        said = (
            f"hazards: {self.look.median * 1000:.1f} ms for {self.look.processes} processes and "
            f"{self.look.descriptors} descriptors; at most {looks.AIM * 1000:g}"
        )
        return [*found, Aim("hazards", self.look.median, looks.AIM, said)]

    def _alone(self, kind: str) -> str:
        """What the kernel's part of that is."""
        one, many = self._of(kind, 1, MOST, KERNEL), self._of(kind, 32, MOST, KERNEL)
        if one is None or many is None:
            return ""
        most, least = many.held_median * 1000, one.held_median * 1000
        return f" (the kernel alone {most:.1f} and {least:.1f} ms: {most / least:.1f} times)"

    def _against_extension(self, kind: str, filesystems: int, part: float) -> list[Aim]:
        ours = self._of(kind, filesystems, MOST, OURS)
        theirs = self._of(kind, filesystems, MOST, EXTENSION)
        if ours is None or theirs is None:
            return []
        ratio = ours.stall / theirs.stall
        least = self._of(kind, filesystems, MOST, KERNEL)
        alone = f" (the kernel alone {least.stall * 1000:.1f} ms)" if least else ""
        said = (
            f"{kind}, 1.5 GB dirty on {filesystems}: {ours.stall * 1000:.1f} ms{alone} against the "
            f"extension's {theirs.stall * 1000:.0f} ms, 1/{1 / ratio:.0f}; at most 1/{1 / part:.0f}"
        )
        return [Aim(f"{kind}: stall against the extension, {filesystems} filesystems", ratio, part, said)]

    def _of(self, kind: str, filesystems: int, megabytes: int, way: str) -> Measured | None:
        wanted = (kind, filesystems, megabytes, way)
        return next(
            (m for m in self.stalls if (m.case.kind, m.case.filesystems, m.case.megabytes, m.way) == wanted),
            None,
        )

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "machine": self.machine.facts(),
            "stalls": [measured.facts() for measured in self.stalls],
            "release": [latency.facts() for latency in self.release],
            "hazards": self.look.facts(),
            "aims": [
                {"what": aim.what, "value": aim.value, "limit": aim.limit, "reached": aim.reached}
                for aim in self.aims()
            ],
        }

    def table(self) -> str:
        """The medians, a line for each case; Markdown, and readable as it is."""
        names = [OURS, PLAIN, EXTENSION, PAIR, KERNEL]
        rows = [
            ["filesystem", "number", "dirty", *names, "1/fsfreeze", "1/extension", "least to most", "held"]
        ]
        for case in dict.fromkeys(measured.case for measured in self.stalls):
            found = {name: self._of(case.kind, case.filesystems, case.megabytes, name) for name in names}
            ours = found[OURS]
            assert ours is not None
            ratios = [one.stall / ours.stall for one in (found[PLAIN], found[EXTENSION]) if one]
            rows.append([
                case.kind,
                str(case.filesystems),
                f"{case.megabytes} MiB",
                *(f"{one.stall * 1000:.1f}" if one else "" for one in found.values()),
                *(f"{ratio:.0f}" for ratio in ratios),
                f"{min(ours.stalls) * 1000:.1f} to {max(ours.stalls) * 1000:.1f}",
                f"{ours.held_median * 1000:.1f}",
            ])  # fmt: skip
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        rows.insert(1, ["-" * width for width in widths])
        return "\n".join(
            "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
            for row in rows
        )

    def markdown(self) -> str:
        """The page that is kept beside the picture."""
        aims = "\n".join(f"- {aim.line()}" for aim in self.aims())
        machine = "\n".join(f"- {line}" for line in self.machine.lines())
        return f"""# {HEAD}

![{HEAD}, by way](stall.svg)

Longest time between two writes of any writer, milliseconds, medians. `{OURS}` is a policy without an
application and the provider `none`; `{PLAIN}` is util-linux's, one filesystem after the other; `{EXTENSION}`
is the Azure Backup extension's own sequence, re-created (`tests/bench/extension_sequence.py` says which of
its waits fall into the freeze); `{PAIR}` is the same between our `pre.sh`, which writes back before, and
`post.sh`; `{KERNEL}` writes back, freezes all at once and thaws all at once, and is the least that this
machine allows (`tests/bench/kernel_alone.py`). No snapshot is taken by any. `held`: from the first FIFREEZE
to the last FITHAW of `{OURS}`.
Dirty pages are spread evenly over the filesystems, whose images are on the disk named below.

{self.table()}

## Held against what is aimed at

{aims}

## The machine

{machine}

Written by `make bench ARGS=--keep`; `figures.json` has every round.
"""

    def picture(self) -> str:
        """Stall against dirty pages, and against the number of filesystems, a line for each way."""
        panels = []
        for kind in dict.fromkeys(m.case.kind for m in self.stalls):
            sizes = sorted(
                {m.case.megabytes for m in self.stalls if m.case.kind == kind and m.case.filesystems == 1}
            )
            places = [(size / 1000, f"{size / 1000:g}") for size in sizes]
            panels.append(
                self._panel(
                    kind, f"{kind}, one filesystem", "GB of dirty pages", places, [(1, s) for s in sizes]
                )
            )
            numbers = sorted(
                {m.case.filesystems for m in self.stalls if m.case.kind == kind and m.case.megabytes == MOST}
            )
            steps = [(float(step), str(number)) for step, number in enumerate(numbers)]
            panels.append(
                self._panel(
                    kind, f"{kind}, 1.5 GB of dirty pages", "filesystems", steps, [(n, MOST) for n in numbers]
                )
            )
        return svg(HEAD, self.machine.lines(), [panel for panel in panels if len(panel.places) > 1])

    def _panel(
        self,
        kind: str,
        title: str,
        axis: str,
        places: Sequence[tuple[float, str]],
        sizes: Sequence[tuple[int, int]],
    ) -> Panel:
        lines = {}
        for way in (OURS, PLAIN, EXTENSION):
            found = [self._of(kind, number, megabytes, way) for number, megabytes in sizes]
            lines[way] = [
                Point(one.stall * 1000, min(one.stalls) * 1000, max(one.stalls) * 1000)
                for one in found
                if one
            ]
        return Panel(title, axis, places, lines)
