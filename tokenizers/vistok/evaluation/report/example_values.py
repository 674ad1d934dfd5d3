"""Values of the page's images under all protocols, with their ranks among all images."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vistok.evaluation.accumulator import Scores
from vistok.evaluation.report.token_data import encoded
from vistok.metrics.units import _with_unit, better


class Values(NamedTuple):
    """Values by protocol and metric."""

    columns: list[tuple[str, str]]  # protocol and metric
    values: np.ndarray  # (tokenizers, columns, images) float32; NaN where there is none
    ranks: np.ndarray  # the same shape, int32; 1 is the best, or the highest where no direction is better
    medians: np.ndarray  # (tokenizers, columns) over all images
    images: int  # number of all images


def values_of(
    names: Sequence[str], protocols: Mapping[str, Mapping[str, Any]], results: Sequence[Mapping[str, Scores]]
) -> Values:
    """Values of the images of these names.

    Args:
        names: Names of the images.
        protocols: Protocols of the report by name.
        results: Scores of each tokenizer by preparation.
    """
    of_tokenizers = [
        {
            (protocol, metric): (scores[own["preparation"]].names, values.numpy())
            for protocol, own in protocols.items()
            for metric, values in scores[own["preparation"]].values(protocol).items()
        }
        for scores in results
    ]
    columns = list(dict.fromkeys(column for own in of_tokenizers for column in own))
    values = np.full((len(results), len(columns), len(names)), np.nan, np.float32)
    ranks, medians = np.zeros(values.shape, np.int32), np.full(values.shape[:2], np.nan, np.float32)
    places: dict[int, np.ndarray] = {}  # of the names, by the list in which they are
    for t, own in enumerate(of_tokenizers):
        for c, column in enumerate(columns):
            if column not in own:
                continue
            all_names, all_values = own[column]
            if id(all_names) not in places:
                places[id(all_names)] = np.array([bisect_left(all_names, name) for name in names], int)
            values[t, c] = all_values[places[id(all_names)]]
            sign = 1 if better(column[1]) == "lower" else -1
            known = all_values[~np.isnan(all_values)]
            ranks[t, c] = np.searchsorted(np.sort(sign * known), sign * values[t, c]) + 1
            medians[t, c] = np.median(known) if len(known) else np.nan
    return Values(columns, values, ranks, medians, len(next(iter(results[0].values())).names))


def content(own: Values) -> dict[str, Any]:
    """Plain content: arrays as base64 of little-endian numbers."""
    return {
        "columns": [
            {"protocol": protocol, "metric": metric, "unit": _with_unit(metric, 0.5)[1], "better": better(metric)}
            for protocol, metric in own.columns
        ],
        "images": own.images,
        "values": encoded(own.values.astype("<f4")),
        "ranks": encoded(own.ranks.astype("<i4")),
        "medians": encoded(own.medians.astype("<f4")),
    }
