"""Figures by matplotlib: rates with their scores."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's
MARKERS = "os^Dv*"
LONGEST = 70  # characters of a name in a legend


class Curve(NamedTuple):
    """Scores of one tokenizer at one or several rates."""

    name: str
    points: Sequence[Mapping[str, float]]  # rates and metrics by name; a metric may be absent
    intervals: Sequence[Mapping[str, Sequence[float]]]  # (low, high) of each point by metric; may be absent
    hollow: bool = False  # True for scores that do not compare with those of other curves


def rate_distortion_plot(curves: Sequence[Curve], rates: Mapping[str, str], metrics: Mapping[str, str]) -> Figure:
    """Each metric against each rate, a colour and a marker for each tokenizer, with bars for the intervals.

    Metrics stand below each other, or, against a single rate, beside each other.

    Args:
        curves: Tokenizers; up to 42 differ in colour or marker.
        rates: Axis labels of the rates by name. A rate whose largest value is ten times the smallest is logarithmic.
        metrics: Axis labels of the metrics by name.
    """
    names = [_plain(curve.name) for curve in curves]
    down, across = (len(metrics), len(rates)) if len(rates) > 1 else (1, len(metrics))
    columns = max(1, min(len(curves), int(11 * 4.4 * across / (max(map(len, names)) + 8))))  # of the legend
    height = 3.1 * down + 0.25 * -(-len(curves) // columns)
    figure = Figure(figsize=(4.4 * across, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = [(metric, rate) for metric in metrics for rate in rates]
    for (metric, rate), axes in zip(panels, figure.subplots(down, across, squeeze=False).flat, strict=True):
        for i, curve in enumerate(curves):
            _draw(axes, curve, rate, metric, i)
        values = [point[rate] for curve in curves for point in curve.points if metric in point]
        if values and 0 < 10 * min(values) <= max(values):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) <= 100 * min(values) else (1,)))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.margins(0.12)
        axes.set_xlabel(rates[rate])
        axes.set_ylabel(_plain(metrics[metric]))
        axes.grid(color="#e2e2e2", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], linestyle="", **_style(i, curve.hollow)) for i, curve in enumerate(curves)]
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # each further drawing would move everything a little
    return figure


def _draw(axes: Axes, curve: Curve, rate: str, metric: str, number: int) -> None:
    places = sorted((i for i, own in enumerate(curve.points) if metric in own), key=lambda i: curve.points[i][rate])
    if not places:
        return
    x, y = ([curve.points[i][name] for i in places] for name in (rate, metric))
    low, high = np.array([curve.intervals[i].get(metric, (np.nan, np.nan)) for i in places]).T
    bars = np.maximum([y - low, high - y], 0)  # none where there is no interval
    axes.errorbar(x, y, bars, capsize=3, elinewidth=1.2, linewidth=1, **_style(number, curve.hollow))


def _style(number: int, hollow: bool) -> dict[str, Any]:
    colour = COLOURS[number % len(COLOURS)]
    inside = {"markerfacecolor": "white"} if hollow else {}
    return {"color": colour, "marker": MARKERS[number % len(MARKERS)], "markersize": 6, **inside}


def _plain(text: str) -> str:
    """Text that matplotlib neither reads as a formula nor leaves out of a legend."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """File of a figure, ``png`` or ``svg``; equal for equal figures."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "vistok"}):
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else {})
    return file.getvalue()
