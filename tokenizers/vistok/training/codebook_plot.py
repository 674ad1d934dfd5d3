"""Use of each codeword in a validation, ``codebook.png``.

Drawn without matplotlib, which takes ten times as long.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vistok.metrics.usage import usage_of
from vistok.plots.figures import COLOURS

WIDTH, PANEL, LINE = 960, 420, 22  # pixels: the picture, its panel with both axes, a line of text
LEFT, RIGHT, TOP, FLOOR = 84, 24, 30, 364  # pixels: margins of the curves, and their ends in the panel
FINE = 2  # the curves are drawn so many times as large, then reduced
ENTRIES = 6  # codebooks that have a line of text; of more, the least, the median and the most used
FEW = 32  # codewords that are drawn as dots
CROWDED = 8  # ticks that an axis has room for
INK = "#282828"


def codebook_plot(counts: Sequence[Tensor], names: Sequence[str] = ()) -> Image.Image:
    """Share of the tokens that chose each codeword, most frequent first, with uniform use and the ceiling of usage.

    Args:
        counts: For each codebook, the count of each codeword, (n,).
        names: Names of the codebooks; empty numbers several codebooks.
    """
    names = names or [f"codebook {i}" if len(counts) > 1 else "" for i in range(len(counts))]
    listed = list(range(len(counts)))
    if len(counts) > ENTRIES:
        by_usage = sorted(listed, key=lambda i: float((counts[i] > 0).double().mean()))
        listed = [by_usage[0], by_usage[len(counts) // 2], by_usage[-1]]
    top = LINE * (len(listed) + 1) + 8
    panel = _panel([own.cpu().numpy() for own in counts])
    picture = Image.new("RGB", (WIDTH, top + panel.height), "white")
    picture.paste(panel, (0, top))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=15)
    title = f"Codewords chosen by {int(counts[0].sum()):,} tokens of held-out images"
    if len(counts) > ENTRIES:
        title += f": the least, the median and the most used of {len(counts)} codebooks"
    draw.text((12, LINE // 2 + 4), title, INK, ImageFont.load_default(size=17), anchor="lm")
    for line, i in enumerate(listed, 1):
        draw.text((12, LINE * line + LINE // 2 + 6), _entry(names[i], counts[i]), _colour(i), font, anchor="lm")
    return picture


def _entry(name: str, counts: Tensor) -> str:
    """Usage of a codebook in words."""
    values = {name: float(value) for name, value in usage_of(counts).items()}
    return (
        f"{name}{': ' if name else ''}{int((counts > 0).sum()):,} of {len(counts):,} codewords used: "
        f"{values['usage']:.1%} of at most {values['usage_ceiling']:.1%}; perplexity {values['perplexity']:,.1f}"
    )


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


class _Scales(NamedTuple):
    """Positions in the panel, pixels, of ranks and of shares in %."""

    first: float  # rank at the left end
    last: float
    low: float  # share at the bottom
    high: float
    log: bool  # True for logarithmic ranks

    def x(self, rank: Any) -> Any:
        value, first, last = np.maximum(rank, self.first), self.first, self.last
        if self.log:
            value, first, last = np.log(value), np.log(first), np.log(last)
        return LEFT + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(self, share: Any) -> Any:
        return FLOOR - np.log(share / self.low) / np.log(self.high / self.low) * (FLOOR - TOP)


def _panel(counts: Sequence[np.ndarray]) -> Image.Image:
    """Curves with their axes, ``WIDTH`` x ``PANEL`` pixels."""
    curves = [100 * np.sort(own[own > 0])[::-1] / max(own.sum(), 1) for own in counts]  # %
    largest, uniform = max(map(len, counts)), sorted({100 / len(own) for own in counts})
    shares = np.concatenate([*curves, uniform])
    high = min(1.6 * shares.max(), 150)
    low = min(shares.min() / 1.6, high / 10)
    if log := largest > 20 * max(1, *map(len, curves)):  # the used codewords would be a line at the left
        scales = _Scales(0.9, 1.1 * largest, low, high, log)
    else:
        scales = _Scales(0.5, largest + 0.5, low, high, log)
    fine = Image.new("RGB", (FINE * WIDTH, FINE * PANEL), "white")
    draw = ImageDraw.Draw(fine)
    x_ticks, y_ticks = log_ticks(1, scales.last) if log else linear_ticks(largest), log_ticks(low, high)
    for tick in y_ticks:
        _line(draw, [(LEFT, scales.y(tick)), (WIDTH - RIGHT, scales.y(tick))], "#e4e4e4", 2)
    for share in uniform:
        _line(draw, [(LEFT, scales.y(share)), (WIDTH - RIGHT, scales.y(share))], "#8a8a8a", 3, dash=3)
    for i, (own, curve) in enumerate(zip(counts, curves, strict=True)):
        _draw_curve(draw, scales, curve, _colour(i))
        end, size = scales.x(-len(own) * math.expm1(-own.sum() / len(own))), 6
        corners = ((end, FLOOR - 1), (end - size, FLOOR - 2 * size), (end + size, FLOOR - 2 * size))
        draw.polygon([(FINE * x, FINE * y) for x, y in corners], _colour(i))
    _line(draw, [(LEFT, TOP), (LEFT, FLOOR), (WIDTH - RIGHT, FLOOR)], INK, 3)
    for tick in x_ticks:
        _line(draw, [(scales.x(tick), FLOOR), (scales.x(tick), FLOOR + 5)], INK, 3)

    panel, font = fine.reduce(FINE), ImageFont.load_default(size=14)
    draw = ImageDraw.Draw(panel)
    for tick in x_ticks:
        draw.text((scales.x(tick), FLOOR + 16), f"{tick:,.0f}", INK, font, anchor="mm")
    for tick in y_ticks:
        draw.text((LEFT - 8, scales.y(tick)), f"{tick:.10g} %", INK, font, anchor="rm")
    about = "codewords, most frequent first (dashed: codewords used; triangle: ceiling of usage)"
    draw.text(((LEFT + WIDTH - RIGHT) / 2, PANEL - 16), about, INK, font, anchor="mm")
    draw.text((12, TOP - 14), "share of the tokens (dotted: uniform use)", INK, font, anchor="lm")
    return panel


def _draw_curve(draw: ImageDraw.ImageDraw, scales: _Scales, curve: np.ndarray, colour: str) -> None:
    if not len(curve):
        return
    xs, ys = scales.x(np.arange(1, len(curve) + 1)), scales.y(curve)
    _line(draw, [(xs[-1], TOP), (xs[-1], FLOOR)], colour, 4, dash=7)
    kept = np.unique(np.round(FINE * xs), return_index=True)[1]  # one point in each column of pixels
    _line(draw, [*zip(xs[kept], ys[kept], strict=True), (xs[-1], ys[-1])], colour, 4)
    if len(curve) <= FEW:
        for x, y in zip(FINE * xs, FINE * ys, strict=True):
            draw.ellipse([x - 8, y - 8, x + 8, y + 8], colour)


def _line(draw: ImageDraw.ImageDraw, points: Sequence[Any], colour: str, width: int, dash: int = 0) -> None:
    """Line through points in pixels of the panel; a straight one of dashes of ``dash`` pixels and equal gaps."""
    pieces = [points]
    if dash:
        (x0, y0), (x1, y1) = points
        length = math.hypot(x1 - x0, y1 - y0)
        ends = [(x0 + (x1 - x0) * at, y0 + (y1 - y0) * at) for at in np.arange(0, length, dash) / length]
        pieces = list(zip(ends[::2], ends[1::2], strict=False))
    for piece in pieces:
        draw.line([(FINE * x, FINE * y) for x, y in piece], colour, width)


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten, with 2 and 5 times them where there is room."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors, step in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 4)):
        ticks = [float(f"{factor}e{e}") for e in exponents if e % step == 0 for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= CROWDED:
            break
    return ticks


def linear_ticks(largest: int) -> list[float]:
    """Ticks of a linear axis of the codewords 1 to ``largest``: whole numbers."""
    if largest <= CROWDED:
        return list(range(1, largest + 1))
    step = next(f * 10**e for e in range(12) for f in (1, 2, 5) if largest // (f * 10**e) < CROWDED)
    return [1, *range(step, largest + 1, step)]
