"""Lines on a logarithmic scale, as SVG that is readable in light and dark surroundings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 430, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 112, 40, 40
"""Room around the lines of a panel, for the scale and for the lines' names."""

HEAD = 54
LEAST_GAP = 14
"""Between two names, pixels."""

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .back { fill: #ffffff } .muted { fill: #59636e } .title { font-weight: 600 } .head { font-size: 16px }
  .grid { stroke: #d1d9e0; stroke-width: 1 } .line { fill: none; stroke-width: 2 }
  .s0 { stroke: #0969da } .s1 { stroke: #9a6700 } .s2 { stroke: #cf222e } .s3 { stroke: #8250df }
  .f0 { fill: #0969da } .f1 { fill: #9a6700 } .f2 { fill: #cf222e } .f3 { fill: #8250df }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .back { fill: #0d1117 } .muted { fill: #9198a1 } .grid { stroke: #3d444d }
    .s0 { stroke: #4493f8 } .s1 { stroke: #d29922 } .s2 { stroke: #ff7b72 } .s3 { stroke: #ab7df8 }
    .f0 { fill: #4493f8 } .f1 { fill: #d29922 } .f2 { fill: #ff7b72 } .f3 { fill: #ab7df8 }
  }
"""


@dataclass(frozen=True, slots=True)
class Point:
    """A median in milliseconds, between the least and the most."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over the same places. ``places``: where on the x axis, and what stands there."""

    title: str
    axis: str
    places: Sequence[tuple[float, str]]
    lines: Mapping[str, Sequence[Point]]


def svg(head: str, foot: Sequence[str], panels: Sequence[Panel], columns: int = 2) -> str:
    """The whole picture; the same scale in every panel."""
    points = [point for panel in panels for line in panel.lines.values() for point in line]
    low = math.floor(math.log10(max(0.1, min(point.least for point in points))))
    high = math.ceil(math.log10(max(point.most for point in points)))
    rows = -(-len(panels) // columns)
    width, height = columns * WIDTH, HEAD + rows * HEIGHT + 18 * len(foot) + 16
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    scale = "milliseconds, logarithmic: each line up is ten times as long; median, with least and most"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(head)}">',
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{width}" height="{height}"/>',
        f'<text class="head title" x="16" y="26">{escape(head)}</text>',
        f'<text class="muted" x="16" y="44">{scale}</text>',
    ]
    for number, panel in enumerate(panels):
        x, y = number % columns * WIDTH, HEAD + number // columns * HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{_panel(panel, low, high)}</g>')
    for number, line in enumerate(foot):
        y = HEAD + rows * HEIGHT + 18 * number + 12
        parts.append(f'<text class="muted" x="16" y="{y}">{escape(line)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, low: int, high: int) -> str:
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def y(milliseconds: float) -> float:
        part = (math.log10(max(milliseconds, 10**low)) - low) / (high - low)
        return round(TOP + down * (1 - part), 1)

    first, last = panel.places[0][0], panel.places[-1][0]

    def x(place: float) -> float:
        return round(LEFT + across * (place - first) / (last - first), 1)

    parts = [f'<text class="title" x="{LEFT}" y="22">{escape(panel.title)}</text>']
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + across}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text class="muted" text-anchor="end" x="{LEFT - 6}" y="{at + 4}">{_round(10.0**power)}</text>'
        )
    below = [(x(place), TOP + down + 16, label) for place, label in panel.places]
    below.append((LEFT + across / 2, TOP + down + 32, panel.axis))
    parts += [
        f'<text class="muted" text-anchor="middle" x="{left}" y="{top}">{escape(text)}</text>'
        for left, top, text in below
    ]
    places = [x(place) for place, _ in panel.places]
    for number, points in enumerate(panel.lines.values()):
        parts.append(
            _line(
                number,
                [(at, y(p.median), y(p.least), y(p.most)) for at, p in zip(places, points, strict=True)],
            )
        )
    parts += _names(panel, [y(points[-1].median) for points in panel.lines.values()])
    return "".join(parts)


def _line(number: int, points: Sequence[tuple[float, float, float, float]]) -> str:
    path = " ".join(f"{x},{y}" for x, y, _, _ in points)
    parts = [f'<polyline class="line s{number}" points="{path}"/>']
    for x, y, least, most in points:
        parts.append(f'<line class="line s{number}" x1="{x}" x2="{x}" y1="{least}" y2="{most}"/>')
        # A shape of its own for each line: colour alone does not tell everybody.
        shape = (
            f'<circle class="f{number}" cx="{x}" cy="{y}" r="4"/>',
            f'<rect class="f{number}" x="{x - 4}" y="{y - 4}" width="8" height="8"/>',
            f'<path class="f{number}" d="M{x - 5} {y + 4}h10l-5 -9z"/>',
            f'<path class="f{number}" d="M{x} {y - 5}l5 5l-5 5l-5 -5z"/>',
        )[number]
        parts.append(shape)
    return "".join(parts)


def _names(panel: Panel, heights: Sequence[float]) -> list[str]:
    """The lines' names and last values at their ends, pushed apart where they would lie on each other."""
    parts = []
    previous = -math.inf
    for number in sorted(range(len(heights)), key=heights.__getitem__):
        at = max(heights[number], previous + LEAST_GAP)
        previous = at
        name, points = list(panel.lines.items())[number]
        parts.append(
            f'<text class="f{number}" x="{WIDTH - RIGHT + 10}" y="{round(at + 4, 1)}">'
            f"{escape(name)} {_round(points[-1].median)}</text>"
        )
    return parts


def _round(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 10 else f"{milliseconds:.1f}".removesuffix(".0")
