"""Curves of a run, ``curves.png``: losses, PSNR, codebook usage and learning rate, from its ``metrics.csv``."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from PIL import Image

from vistok.plots.figures import COLOURS

USAGE, PSNR, RATE = ("codebook/usage", "val/usage"), ("train/psnr", "val/psnr", "val/psnr_bicubic"), ("train/lr",)
NO_LOSSES = ("psnr", "lr", "accuracy_", "adversarial_scale", "ssim", "images", "tokens", "rate", "grad_norm")
MOST_LOSSES = 6  # curves in the panel of losses, the largest ones
MOST_DOTS = 50  # validations of a run that are drawn as dots; more are a line only
WINDOW = 40  # parts of a run over which noisy curves are averaged
Points = tuple[np.ndarray, np.ndarray]  # updates, values


def curves_plot(rows: Sequence[Mapping[str, Any]], adversary_start: int | None = None) -> Image.Image:
    """Four panels over the updates of a run.

    Curves of training batches are pale, with their running mean over a fortieth of the run; validations are dots, or a
    line if they are many.

    Args:
        rows: Rows of ``metrics.csv``: numbers or texts by column; an empty text is no value.
        adversary_start: Update from which the discriminator takes part; None if there is no discriminator.
    """
    curves = points_of(rows)
    losses = sorted(
        (name for name in curves if name.startswith("train/") and not name[6:].startswith(NO_LOSSES)),
        key=lambda name: -float(np.abs(curves[name][1]).max()),
    )[:MOST_LOSSES]
    figure = Figure(figsize=(11, 6.4), dpi=110)
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True).flat
    usage = [name for name in curves if name.startswith(USAGE) and "ceiling" not in name]
    for axes, names, label, scale in zip(
        panels,
        (losses, [name for name in PSNR if name in curves], usage, [name for name in RATE if name in curves]),
        ("losses", "PSNR, dB", "codewords used, %", "learning rate"),
        (1, 1, 100, 1),
        strict=True,
    ):
        for i, name in enumerate(names):
            _draw_curve(axes, name, curves[name], COLOURS[i % len(COLOURS)], scale)
        _dress(axes, label, adversary_start, len(names))
        if label == "losses" and names and all((curves[name][1] > 0).all() for name in names):
            _scale_by_logarithms(axes)
        if scale == 100:
            axes.set_ylim(0, 105)
    figure.subplots_adjust(left=0.078, right=0.985, bottom=0.08, top=0.955, wspace=0.18, hspace=0.33)
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


def points_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Updates and finite values of each column that has any, by name; validations belong to the update before them."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    update = 0.0
    for row in rows:
        update = float(row.get("updates") or update)
        for name, value in row.items():
            if "/" in name and value not in ("", None) and np.isfinite(float(value)):
                updates, values = found.setdefault(name, ([], []))
                updates.append(update)
                values.append(float(value))
    return {name: (np.array(updates), np.array(values)) for name, (updates, values) in found.items()}


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of each value and the ``width`` - 1 values before it, (n,); of fewer at the start."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - width)
    return (sums[last] - sums[first]) / (last - first)


def label_of(name: str) -> str:
    """Label of a column of ``metrics.csv``: for PSNR and usage the images that it is of, else its name."""
    group, _, short = name.partition("/")
    if short == "psnr_bicubic":
        return "bicubic baseline"
    if short.startswith(("psnr", "usage")):
        images = "held-out images" if group == "val" else "training images"
        return f"{images}, codebook {number}" if (number := short.removeprefix("usage_")).isdecimal() else images
    return short.replace("_", " ")


def _draw_curve(axes: Axes, name: str, points: Points, colour: str, scale: float) -> None:
    updates, values = points[0], points[1] * scale
    label = label_of(name)
    if name.startswith("val/"):
        marker = "o" if len(values) <= MOST_DOTS else ""
        axes.plot(updates, values, color=colour, marker=marker, markersize=4, linewidth=1, label=label)
        return
    width = 1 if name in RATE else max(1, len(values) // WINDOW)
    if width > 1:
        axes.plot(updates, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(updates, running_mean(values, width), color=colour, linewidth=1.6, label=label)


def _scale_by_logarithms(axes: Axes) -> None:
    """Makes the y axis logarithmic, with labels such as 0.05 at 1, 2 and 5 times powers of ten, or only at these."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _dress(axes: Axes, label: str, adversary_start: int | None, curves: int) -> None:
    axes.set_title(label, loc="left", fontsize=10)
    axes.set_xlabel("updates")
    axes.xaxis.set_tick_params(labelbottom=True)
    axes.grid(color="#e2e2e2", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if adversary_start is not None and adversary_start <= axes.get_xlim()[1]:
        name = "discriminator starts" if label == "losses" else None
        axes.axvline(adversary_start, color="#888888", linestyle="--", linewidth=1, label=name)
    if curves and label != "learning rate":
        axes.legend(frameon=False, fontsize=8, ncols=2)
