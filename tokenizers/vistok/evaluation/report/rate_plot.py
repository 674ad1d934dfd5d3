"""The rate–distortion picture of a comparison: which metrics it has, and the points of each tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from vistok.evaluation.report.labels import short
from vistok.metrics.units import _with_unit, better
from vistok.plots.figures import Curve, rate_distortion_plot

RATES = {"bits_per_pixel_entropy": "bits per pixel, by entropy", "tokens_per_image": "tokens per image"}
USUAL = ("rfid", "frechet", "lpips", "psnr")  # beginnings of the metrics that are drawn unless others are chosen


def rate_plot(comparison: Mapping[str, Any], metrics: Sequence[str] | None = None) -> Figure:
    """Metrics against bits per pixel and against tokens, as far as they differ, with the intervals of the metrics.

    Scores of one tokenizer at several rates are joined by a line. Marks of tokenizers that were scored on other images
    than the first one are hollow.

    Args:
        comparison: Result of ``vistok.evaluation.compare``.
        metrics: Names of the metrics; None draws a Fréchet distance, an LPIPS and PSNR, as far as they exist.

    Raises:
        ValueError: No tokenizer has a metric, or has its rate.
    """
    known = known_metrics(comparison)
    chosen = list(metrics or [])
    for name in chosen:
        if name not in known:
            raise ValueError(f"--metric={name} is in none of the files; they have {', '.join(known)}")
    if not chosen:
        found = (next((name for name in known if name.startswith(begin)), None) for begin in USUAL)
        chosen = list(dict.fromkeys(name for name in found if name))[:3] or known[:1]
    if not chosen:
        raise ValueError("there is nothing to draw: no score has a metric and a rate")
    drawn = curves(comparison)
    return rate_distortion_plot(drawn, varying_rates(drawn), {name: axis_label(name) for name in chosen})


def known_metrics(comparison: Mapping[str, Any]) -> list[str]:
    """Names of the metrics that can be drawn, in the order of the scores."""
    scores = [own["metrics"] for own in comparison["scores"] if own["metrics"].keys() >= RATES.keys()]
    return [name for name in dict.fromkeys(name for own in scores for name in own) if better(name)]


def varying_rates(drawn: Sequence[Curve]) -> dict[str, str]:
    """Labels of the rates that differ between tokenizers; a common number of tokens stands in the label of the bits."""
    bits, tokens = RATES
    different = {rate: len({point[rate] for curve in drawn for point in curve.points}) > 1 for rate in RATES}
    if different[tokens]:
        return {rate: label for rate, label in RATES.items() if different[rate]}
    return {bits: f"{RATES[bits]} ({drawn[0].points[0][tokens]:,.5g} {RATES[tokens]})"}


def axis_label(name: str) -> str:
    """Name of a metric with its unit and the direction in which it is better."""
    unit = _with_unit(name, 0.5)[1]
    return f"{name.replace('_', ' ')}{f', {unit}' if unit else ''}\n({better(name)} is better)"


def curves(comparison: Mapping[str, Any]) -> list[Curve]:
    """Scores by tokenizer: those with one hash and the same images form one curve."""
    groups: dict[tuple, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for about, score in zip(comparison["tokenizers"], comparison["scores"], strict=True):
        if score["metrics"].keys() >= RATES.keys():
            apart = about["tokenizer"] in comparison["not_compared"]
            key = (about["sha256"], about["tokenizer"] if apart or about["rate"] is None else "")
            groups.setdefault(key, []).append((about, score))
    found = []
    for own in groups.values():
        about, score = own[0]
        name = about["tokenizer"]
        if len(own) > 1:
            rates = sorted(part["rate"] for part, _ in own)
            name = f"{short(about['path'])} (rates {rates[0]:g} to {rates[-1]:g})"
        points, intervals = ([part[key] for _, part in own] for key in ("metrics", "intervals"))
        found.append(Curve(name, points, intervals, about["tokenizer"] in comparison["not_compared"]))
    return found
