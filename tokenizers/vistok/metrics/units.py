"""Metrics with their units, and the direction in which each is better, for tables and sentences."""

import math
from collections.abc import Sequence

HIGHER = ("psnr", "ssim", "ms_ssim", "inception_score", "precision", "recall")
INTERVALS = "frechet_intervals"  # a name among what is unavailable that is no metric
LOWER = ("l1", "lpips", "rfid", "sfid", "frechet", "kid", "cmmd")


def better(name: str) -> str | None:
    """Direction in which a metric is better, ``higher`` or ``lower``; None for a fact such as the number of tokens."""
    if name.startswith(HIGHER) and name != "psnr_bicubic":  # the baseline is no property of the tokenizer
        return "higher"
    return "lower" if name.startswith(LOWER) and "_std" not in name else None


def _with_unit(name: str, value: float) -> tuple[str, str]:
    if name.startswith("psnr"):
        return f"{value:.2f}", "dB"
    if name.startswith("usage"):
        return f"{100 * value:.1f}", "% of codewords"
    if name.startswith("bits_per_pixel"):
        return f"{value:.4g}", "bits"
    if name.startswith("bits"):
        return f"{value:,.0f}", "bits"
    if float(value).is_integer():
        return f"{value:,.0f}", ""
    return f"{value:.4g}", ""


def rounded(values: Sequence[float], width: float) -> list[str]:
    """Numbers with two digits of an interval's width, or four of the largest number if the width is 0."""
    if width > 0:
        decimals = 1 - math.floor(math.log10(width))
    else:
        decimals = 3 - math.floor(math.log10(max(map(abs, values), default=0) or 1))
    decimals = max(0, decimals)
    return [f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "−") for value in values]  # 0, not -0
