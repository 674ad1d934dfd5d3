"""Metrics that need the features of single images: the intervals of Fréchet distances.

The features pass through a file on disk, so that memory does not grow with the number of images.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vistok.evaluation.feature_file import FLOAT, FeatureFile
from vistok.evaluation.networks import ScoringNetworks, reference_name, score_names
from vistok.evaluation.protocols import Protocol
from vistok.metrics.frechet import FeatureStatistics
from vistok.metrics.jackknife import Side, group_counts, leave_one_out, too_few

IMAGES, RECONSTRUCTIONS = "images", "reconstructions"


class SetMetrics(NamedTuple):
    """The metrics of features of single images that are asked for."""

    intervals: bool | str = False  # of Fréchet distances; all: of sFID too, with twice the features

    def columns(self, protocols: Mapping[str, Protocol], networks: ScoringNetworks) -> dict[str, int]:
        """Number of features that are stored of an image or a reconstruction, by ``reference_name``."""
        columns = {}
        for view in {protocol.view: None for protocol in protocols.values()}:
            for network in networks.feature_networks:
                for i, (score, dim) in enumerate(score_names(network).items()):
                    if self.intervals and (i == 0 or self.intervals == "all"):
                        columns[reference_name(view, score)] = dim
        return columns


class FeatureStore:
    """Features of this rank's images and of their reconstructions by one tokenizer.

    Args:
        path: Path of the file.
        columns: Number of features by name; see ``SetMetrics.columns``.
        earlier: Store of an earlier tokenizer, which has the features of the same images; None stores them here.
    """

    def __init__(self, path: Path, columns: Mapping[str, int], earlier: "FeatureStore | None" = None):
        self.names = list(columns)
        sides = (RECONSTRUCTIONS,) if earlier else (IMAGES, RECONSTRUCTIONS)
        self.file = FeatureFile(path, {f"{side}/{name}": dim for side in sides for name, dim in columns.items()})
        self.images: FeatureFile = earlier.images if earlier else self.file

    def leave_one_out(
        self,
        names: Sequence[str],
        images: Mapping[str, FeatureStatistics],
        reconstructions: Mapping[str, FeatureStatistics],
    ) -> dict[str, Tensor] | str:
        """Fréchet distances without one of ten groups each.

        Args:
            names: Names of this rank's images, in the order of their rows.
            images: Statistics of the images of all ranks.
            reconstructions: Statistics of the reconstructions of all ranks.

        Returns:
            (10,) float64 by ``reference_name``; or the reason why there are none.
        """
        device = next(iter(reconstructions.values())).device if reconstructions else torch.device("cpu")
        if reason := too_few(group_counts(names, device)):
            return reason
        return {
            name: leave_one_out(
                Side(images[name], lambda rows, name=name: self.images.read(f"{IMAGES}/{name}", rows)),
                Side(reconstructions[name], lambda rows, name=name: self.file.read(f"{RECONSTRUCTIONS}/{name}", rows)),
                names,
            )
            for name in self.names
        }


def disk_space(
    asked: SetMetrics,
    protocols: Mapping[str, Protocol],
    networks: ScoringNetworks,
    tokenizers: int,
    images: int | None,
) -> str:
    """Sentence about the disk that features take; empty where that is less than 100 MB.

    Args:
        asked: Metrics that need features.
        protocols: Protocols by name.
        networks: Networks by which images are compared.
        tokenizers: Number of tokenizers.
        images: Number of images; None where it is unknown, for which the sentence is about each image.
    """
    crops: dict[str, dict[str, Protocol]] = {}
    for name, protocol in protocols.items():
        crops.setdefault(protocol.crop, {})[name] = protocol
    floats = sum(sum(asked.columns(own, networks).values()) for own in crops.values())
    size = floats * FLOAT.itemsize * (1 + tokenizers)
    if not size or images is not None and images * size < 1e8:
        return ""
    amount = f"{size / 1e3:,.0f} kB an image" if images is None else f"{images * size / 1e9:.1f} GB"
    return f"features of single images take {amount} on disk until the end; metrics.intervals=false needs none"


def without_features(
    asked: SetMetrics, protocols: Mapping[str, Protocol], networks: ScoringNetworks, reference: str | None
) -> dict[str, str]:
    """Metrics that are unavailable because the images' statistics come from a file, with the reason."""
    if not reference or not asked.columns(protocols, networks):
        return {}
    return {"frechet_intervals": f"metrics.reference={reference} has no features of single images"}
