"""Intervals of scores and of differences between tokenizers: how far both would move with other images.

Means over images have a bootstrap (Efron 1979): images are drawn with replacement, the same for all tokenizers, so that
images that are difficult for all of them cancel in a difference. Scores of the whole set, such as the Fréchet
distance, have a jackknife over ten groups of images, the same for all tokenizers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vistok.metrics.jackknife import GROUPS
from vistok.metrics.units import better

LEVEL = 0.95
RESAMPLES = 2000
SEED = 0
STUDENT = 2.2621571628  # Student's t with nine degrees of freedom exceeds it with a probability of (1 - LEVEL) / 2
FEWEST = 10  # images; a bootstrap of fewer is far too narrow
BLOCK = 2**20  # drawn images in memory at a time
METHOD = {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED, "groups": GROUPS}


class Evidence(NamedTuple):
    """Everything that intervals of one tokenizer's scores under one protocol are computed from."""

    metrics: Mapping[str, float]  # the scores by name
    values: Mapping[str, np.ndarray]  # (n,) of each image, in the same order for all tokenizers; NaN where it has none
    leave_one_out: Mapping[str, np.ndarray]  # (10,) the score without each group of images
    sizes: np.ndarray  # (10,) images in each group


class Interval(NamedTuple):
    """Limits of a 95 % interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """A tokenizer's score minus that of another tokenizer on the same images."""

    value: float
    low: float
    high: float

    @property
    def separated(self) -> bool:
        """True if the interval does not contain 0."""
        return not self.low <= 0 <= self.high


def resampled_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Means over images drawn with replacement, the same images for all rows.

    The draws depend on n and the seed alone. Memory holds ``BLOCK`` of them at a time.

    Args:
        values: (rows, n) values of each image; NaN for an image that has none, which does not enter the row's means.
        resamples: Number of sets of n images that are drawn.
        seed: Seed of the draws.

    Returns:
        (rows, resamples) float64.
    """
    n = values.shape[1]
    present = np.isfinite(values).astype(np.float64)
    centre = np.nanmean(values, 1, keepdims=True, dtype=np.float64)
    centred = np.nan_to_num(values - centre)
    generator = np.random.Generator(np.random.PCG64(seed))
    step = max(1, BLOCK // n)
    means = []
    for start in range(0, resamples, step):
        b = min(step, resamples - start)
        drawn = generator.integers(n, size=(b, n)) + n * np.arange(b)[:, None]
        times = np.bincount(drawn.ravel(), minlength=b * n).reshape(b, n)  # how often each image was drawn
        times = times.T.astype(np.float64)
        means.append(centred @ times / np.maximum(present @ times, 1))
    return centre + np.concatenate(means, 1)


def bootstrap(values: np.ndarray) -> list[Interval]:
    """Percentile intervals of the means of rows (rows, n), from the same draws for all rows."""
    tail = (1 - LEVEL) / 2
    limits = np.quantile(resampled_means(values), (tail, 1 - tail), axis=1)
    return [Interval(low, high) for low, high in limits.T.tolist()]


def jackknife(score: float, leave_one_out: np.ndarray, sizes: np.ndarray) -> Interval:
    """Interval of a score of all images, from the scores without one of ten groups of images each.

    The delete-a-group jackknife for groups of unequal sizes (Busing, Meijer and van der Leeden 1999, Eq. 9): a Fréchet
    distance grows as images get fewer, so that plain deviations would also measure the groups' sizes.

    Args:
        score: The score of all images, or a difference of two scores.
        leave_one_out: (10,) the same without each group.
        sizes: (10,) number of images in each group, none of which is empty.

    Returns:
        The interval, which is centred on the score.
    """
    share = sizes.sum() / sizes
    pseudo = share * score - (share - 1) * leave_one_out  # of a mean: the mean of each group
    centre = GROUPS * score - ((1 - 1 / share) * leave_one_out).sum()
    half = STUDENT * float(np.sqrt((np.square(pseudo - centre) / (share - 1)).mean()))
    return Interval(score - half, score + half)


def intervals_of(tokenizers: Sequence[Evidence]) -> tuple[list[dict[str, Interval]], list[dict[str, Difference]]]:
    """Intervals of each tokenizer's scores, and of the differences from the first tokenizer.

    Args:
        tokenizers: Evidence of each tokenizer, of the same images in the same order.

    Returns:
        For each tokenizer the intervals by metric, and the differences by metric, of which the first has none.
    """
    first = tokenizers[0]
    intervals: list[dict[str, Interval]] = [{} for _ in tokenizers]
    differences: list[dict[str, Difference]] = [{} for _ in tokenizers]
    rows: list[np.ndarray] = []
    places: list[tuple[int, str, bool]] = []  # of each row: its tokenizer, its metric, and True for a difference
    for i, own in enumerate(tokenizers):
        for name in filter(better, own.values):
            values = own.values[name].astype(np.float64)
            candidates = [(False, values)]
            if i and name in first.values:
                candidates.append((True, values - first.values[name]))  # equal values differ by exactly 0
            for is_difference, row in candidates:
                if np.isfinite(row).sum() >= FEWEST:
                    rows.append(row)
                    places.append((i, name, is_difference))
    found = bootstrap(np.stack(rows)) if rows else []
    for row, (i, name, is_difference), (low, high) in zip(rows, places, found, strict=True):
        if is_difference:
            differences[i][name] = Difference(float(np.nanmean(row)), low, high)
        else:
            intervals[i][name] = Interval(low, high)
    for i, own in enumerate(tokenizers):
        for name in filter(better, own.leave_one_out):
            values = own.leave_one_out[name]
            intervals[i][name] = jackknife(own.metrics[name], values, own.sizes)
            if i and name in first.leave_one_out:
                value = own.metrics[name] - first.metrics[name]
                limits = jackknife(value, values - first.leave_one_out[name], own.sizes)
                differences[i][name] = Difference(value, *limits)
    return intervals, differences


def with_intervals(
    scores: Sequence[Mapping[str, Any]], evidence: Sequence[Evidence]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Scores with their intervals, and the differences from the first tokenizer, as plain content for JSON.

    Args:
        scores: Scores with ``tokenizer``, ``protocol``, ``hash`` and ``metrics``, all of the same images.
        evidence: Evidence of each score.

    Returns:
        The scores, each with ``intervals``: (low, high) by metric; and for each score whose tokenizer is not the
        first a description with ``tokenizer``, ``against``, ``protocol``, ``hash`` and ``metrics``. Each metric there
        has its ``difference``, ``interval``, the direction that is ``better``, and a ``verdict``: ``better``,
        ``worse`` or ``not separated``.
    """
    complete, apart = [dict(score) for score in scores], []
    for protocol in dict.fromkeys(score["protocol"] for score in scores):
        chosen = [i for i, score in enumerate(scores) if score["protocol"] == protocol]
        first = scores[chosen[0]]
        for i, intervals, differences in zip(chosen, *intervals_of([evidence[i] for i in chosen]), strict=True):
            complete[i]["intervals"] = {name: list(interval) for name, interval in intervals.items()}
            if scores[i] is not first:
                about = {name: _described(name, difference) for name, difference in differences.items()}
                labels = {"tokenizer": scores[i]["tokenizer"], "against": first["tokenizer"]}
                apart.append({**labels, "protocol": protocol, "hash": first["hash"], "metrics": about})
    return complete, apart


def _described(name: str, difference: Difference) -> dict[str, Any]:
    direction = better(name)
    verdict = "not separated"
    if difference.separated:
        verdict = "better" if (difference.value > 0) == (direction == "higher") else "worse"
    interval = [difference.low, difference.high]
    return {"difference": difference.value, "interval": interval, "better": direction, "verdict": verdict}
