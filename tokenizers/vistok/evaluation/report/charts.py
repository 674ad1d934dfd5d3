"""Charts as inline SVG, for a page without links to other files or hosts.

Colours are classes, ``s0`` to ``s7``, that the page's style sheet defines for light and dark mode.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 72, 18, 10, 46
COLOURS = 8
MARKERS = ("circle", "square", "triangle", "diamond", "cross", "star")


class Axis(NamedTuple):
    """Mapping from values to positions along one side of a chart."""

    low: float
    high: float
    log: bool = False
    integer: bool = False  # True if the values are counts

    @classmethod
    def over(cls, values: Sequence[float], log: bool = False) -> "Axis":
        """Axis that covers all values, with a margin."""
        low, high = min(values), max(values)
        if log:
            return cls(low, max(1.1 * high, 2 * low), True)
        room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - room, high + room)

    def at(self, value: float) -> float:
        """Position of a value, from 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values for ticks, two to six of them on a linear axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 3))
        step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (m * step) <= 5)
        step = max(step, 1.0) if self.integer else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * i for i in range(first, last + 1)]


def x_at(axis: Axis, value: float) -> float:
    return LEFT + axis.at(value) * (WIDTH - LEFT - RIGHT)


def y_at(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.at(value) * (HEIGHT - TOP - BOTTOM)


def chart(x: Axis, y: Axis, x_name: str, y_name: str, content: str, label: str) -> str:
    """SVG with axes around ``content``.

    Args:
        x: Horizontal axis.
        y: Vertical axis.
        x_name: Label of the horizontal axis.
        y_name: Label of the vertical axis.
        content: SVG, already escaped.
        label: Description for screen readers.
    """
    lines = []
    for tick in x.ticks():
        at = x_at(x, tick)
        lines.append(f'<path class="tick" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        lines.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{number(tick)}</text>')
    for tick in y.ticks():
        at = y_at(y, tick)
        lines.append(f'<path class="tick" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(lines)}'
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
        f'<text x="{middle_x}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text transform="translate(13 {middle_y}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>'
        f"{content}</svg>"
    )


def number(value: float) -> str:
    """Label of a tick."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.6g}"


def rank_chart(series: Sequence[tuple[str, np.ndarray]]) -> str:
    """Counts of codewords, most frequent first, on logarithmic axes; dead codewords are omitted.

    Args:
        series: Names with counts (n,), at least one above 0.
    """
    ordered = [(name, np.sort(counts[counts > 0])[::-1]) for name, counts in series]
    x = Axis.over([1, max(len(counts) for _, counts in series)], log=True)
    y = Axis.over([1, max(counts[0] for _, counts in ordered)], log=True)
    content = []
    for i, (name, counts) in enumerate(ordered):
        ranks = np.unique(np.geomspace(1, len(counts), 240).round().astype(int))
        points = " ".join(f"{x_at(x, rank):.1f},{y_at(y, counts[rank - 1]):.1f}" for rank in ranks)
        title = f"{name}: {len(counts):,} codewords chosen"
        content.append(
            f'<polyline class="curve stroke s{i % COLOURS}" points="{points}"><title>{escape(title)}</title></polyline>'
        )
    return chart(x, y, "rank of the codeword", "times chosen", "".join(content), "frequencies of codes by rank")


def histogram(series: Sequence[tuple[str, np.ndarray]], name: str) -> str:
    """Distributions over images on common bins: twice the root of the number of images, at most thirty.

    Args:
        series: Names with values (n,).
        name: Name of the values.
    """
    bins = min(30, math.ceil(2 * len(series[0][1]) ** 0.5))
    everything = np.concatenate([values for _, values in series])
    edges = (
        np.linspace(everything.min(), everything.max(), bins + 1)
        if np.ptp(everything)
        else everything[0] + (np.linspace(-0.5, 0.5, bins + 1))
    )
    counted = [(own, np.histogram(values, edges)[0]) for own, values in series]
    x, y = Axis(edges[0], edges[-1]), Axis(0, 1.05 * max(counts.max() for _, counts in counted), integer=True)
    content = []
    for i, (own, counts) in enumerate(counted):
        path = f"M{x_at(x, edges[0]):.1f} {y_at(y, 0):.1f}"
        for count, right in zip(counts, edges[1:], strict=True):
            path += f"V{y_at(y, count):.1f}H{x_at(x, right):.1f}"
        path += f"V{y_at(y, 0):.1f}Z"
        content.append(f'<path class="area fill stroke s{i % COLOURS}" d="{path}"><title>{escape(own)}</title></path>')
    return chart(x, y, name, "images", "".join(content), f"distribution of {name}")


class Point(NamedTuple):
    """Mark of a scatter plot."""

    x: float
    y: float
    colour: int
    marker: int
    title: str
    hollow: bool = False


def scatter(points: Sequence[Point], x_name: str, y_name: str) -> str:
    x, y = Axis.over([point.x for point in points]), Axis.over([point.y for point in points])
    content = "".join(
        f'<g transform="translate({x_at(x, point.x):.1f} {y_at(y, point.y):.1f})">'
        f"{marker(point.marker, point.colour, point.hollow)}<title>{escape(point.title)}</title></g>"
        for point in points
    )
    return chart(x, y, x_name, y_name, content, f"{y_name} against {x_name}")


def marker(shape: int, colour: int, hollow: bool = False) -> str:
    """SVG of a marker around the origin, about 12 units wide."""
    shapes = {
        "circle": '<circle r="5.5"/>',
        "square": '<rect x="-5" y="-5" width="10" height="10"/>',
        "triangle": '<path d="M0 -6.5L6 5H-6Z"/>',
        "diamond": '<path d="M0 -7L7 0L0 7L-7 0Z"/>',
        "cross": '<path d="M-2 -6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z"/>',
        "star": '<path d="M0 -7L2 -2L7 -2L3 1.5L4.5 6.5L0 3.5L-4.5 6.5L-3 1.5L-7 -2L-2 -2Z"/>',
    }
    kind = "hollow" if hollow else "fill"
    return f'<g class="{kind} s{colour % COLOURS}">{shapes[MARKERS[shape % len(MARKERS)]]}</g>'


def legend(entries: Sequence[tuple[str, int, int]]) -> str:
    """List of names, each with its colour and marker."""
    items = "".join(
        f'<li><svg viewBox="-8 -8 16 16" aria-hidden="true">{marker(shape, colour)}</svg>{escape(name)}</li>'
        for name, colour, shape in entries
    )
    return f'<ul class="legend">{items}</ul>'


def ramp(colours: np.ndarray, ends: tuple[str, str], apart: tuple[int, int, int] | None = None) -> str:
    """Scale of a map's colours (n, 3) uint8 with the meaning of its ends; ``apart`` is a further colour before it."""
    width, start = 400, 0 if apart is None else 60
    own = "" if apart is None else f'<rect width="48" height="12" fill="rgb{apart}"/>'
    step = (width - start) / len(colours)
    boxes = "".join(
        f'<rect x="{start + i * step:.2f}" width="{step + 1:.2f}" height="12" fill="rgb({r},{g},{b})"/>'
        for i, (r, g, b) in enumerate(colours.tolist())
    )
    return (
        f'<div class="ramp"><svg viewBox="0 0 {width} 12" preserveAspectRatio="none" aria-hidden="true">{own}{boxes}'
        f'</svg><div class="ends"><span>{escape(ends[0])}</span><span>{escape(ends[1])}</span></div></div>'
    )
