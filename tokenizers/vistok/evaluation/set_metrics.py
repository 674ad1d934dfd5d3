"""Metrics that need the features of single images: intervals of Fréchet distances, KID, precision and recall, CMMD.

The features pass through a file on disk, so that memory does not grow with the number of images.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vistok.distributed.collectives import gather_objects
from vistok.evaluation.feature_file import FLOAT, FeatureFile, places_by_name, rows_by_place
from vistok.evaluation.networks import ScoringNetworks, reference_name, score_names
from vistok.evaluation.preparation import Preparation
from vistok.evaluation.protocols import Protocol
from vistok.metrics.cmmd import cmmd
from vistok.metrics.feature_networks import Inception
from vistok.metrics.feature_rows import FeatureRows
from vistok.metrics.frechet import FeatureStatistics
from vistok.metrics.jackknife import Side, group_sizes, leave_one_out, too_few
from vistok.metrics.kid import SUBSET_SIZE, kernel_distance
from vistok.metrics.precision_recall import NEIGHBOURS, precision_recall
from vistok.metrics.units import INTERVALS

IMAGES, RECONSTRUCTIONS = "images", "reconstructions"


class SetMetrics(NamedTuple):
    """The metrics of features of single images that are asked for; CMMD is where ``ScoringNetworks`` has CLIP."""

    intervals: bool | str = False  # of Fréchet distances; all: of sFID too, with twice the features
    kid: bool = False
    precision_recall: bool = False

    def unavailable(self, networks: ScoringNetworks, reference: str | None) -> dict[str, str]:
        """Asked metrics that cannot be computed, with the reason, before any image is read.

        Args:
            networks: Networks by which images are compared.
            reference: File with the images' statistics, in place of their features.
        """
        asked = ["kid"] * self.kid + ["precision", "recall"] * self.precision_recall
        suffixes = [suffix_of(network) for network in networks.feature_networks]
        without_network = {} if suffixes else dict.fromkeys(asked, "there is no feature network")
        if not reference:
            return without_network
        names = [f"{name}{suffix}" for suffix in suffixes for name in asked]
        names += [INTERVALS] * bool(self.intervals and suffixes)
        names += [f"cmmd_{networks.clip.name}"] if networks.clip else []
        reason = f"metrics.reference={reference} has no features of single images"
        return without_network | dict.fromkeys(names, reason)

    def columns(self, views: Iterable[Sequence[str]], networks: ScoringNetworks) -> dict[str, int]:
        """Number of features that are stored of an image or a reconstruction, by ``reference_name``."""
        columns = {}
        for view in dict.fromkeys(views):
            for network in networks.feature_networks:
                for i, (score, dim) in enumerate(score_names(network).items()):
                    if self.intervals == "all" or i == 0 and any(self):
                        columns[reference_name(view, score)] = dim
            if networks.clip:
                columns[reference_name(view, networks.clip.name)] = networks.clip.dim
        return columns


class Found(NamedTuple):
    """The metrics of one tokenizer for one crop."""

    leave_one_out: dict[str, Tensor] = {}  # (10,) float64: Fréchet distances without one group each, by reference_name
    values: dict[str, float] = {}  # further metrics, by view/name
    unavailable: dict[str, str] = {}  # metrics that so few images do not have, with the reason


class FeatureStore:
    """Features of this rank's images and of their reconstructions by one tokenizer.

    Args:
        path: Path of the file.
        asked: Metrics that are computed at the end.
        views: Views of the protocols; see ``Protocol.view``.
        networks: Networks that compute the features.
        earlier: Store of an earlier tokenizer, which has the features of the same images; None stores them here.
    """

    def __init__(
        self,
        path: Path,
        asked: SetMetrics,
        views: Iterable[tuple[str, ...]],
        networks: ScoringNetworks,
        earlier: "FeatureStore | None" = None,
    ):
        self.asked, self.views, self.networks = asked, list(dict.fromkeys(views)), networks
        sides = (RECONSTRUCTIONS,) if earlier else (IMAGES, RECONSTRUCTIONS)
        columns = asked.columns(self.views, networks)
        self.file = FeatureFile(path, {f"{side}/{name}": dim for side in sides for name, dim in columns.items()})
        self.images: FeatureFile = earlier.images if earlier else self.file

    def compute(
        self,
        names: Sequence[str],
        images: Mapping[str, FeatureStatistics],
        reconstructions: Mapping[str, FeatureStatistics],
        device: torch.device | str,
    ) -> Found:
        """Computes all metrics, on every rank.

        Args:
            names: Names of this rank's images, in the order of their rows.
            images: Statistics of the images of all ranks.
            reconstructions: Statistics of the reconstructions of all ranks.
            device: Device that computes.
        """
        of_ranks = gather_objects((self.images.path, self.file.path, names))
        names_of_ranks = [own for _, _, own in of_ranks]
        files = {
            IMAGES: [FeatureFile(path, self.images.columns) for path, _, _ in of_ranks],
            RECONSTRUCTIONS: [FeatureFile(path, self.file.columns) for _, path, _ in of_ranks],
        }
        found = Found({}, {}, {})
        if self.asked.intervals and self.networks.feature_networks:
            if reason := too_few(group_sizes(sum(names_of_ranks, []))):
                found.unavailable[INTERVALS] = reason
            else:
                found.leave_one_out.update(self._leave_one_out(names, images, reconstructions))
        if self.asked.kid or self.asked.precision_recall or self.networks.clip:
            places = places_by_name(names_of_ranks)

            def rows(view: tuple[str, ...], score: str) -> list[FeatureRows]:
                columns = {side: f"{side}/{reference_name(view, score)}" for side in (RECONSTRUCTIONS, IMAGES)}
                return [rows_by_place(files[side], places, name, device) for side, name in columns.items()]

            for view in self.views:
                for network in self.networks.feature_networks:
                    own = _of_network(self.asked, rows(view, next(iter(score_names(network)))), network)
                    found.values.update({reference_name(view, name): value for name, value in own.values.items()})
                    found.unavailable.update(own.unavailable)
                if clip := self.networks.clip:
                    found.values[reference_name(view, f"cmmd_{clip.name}")] = cmmd(*rows(view, clip.name))
        return found

    def _leave_one_out(
        self,
        names: Sequence[str],
        images: Mapping[str, FeatureStatistics],
        reconstructions: Mapping[str, FeatureStatistics],
    ) -> dict[str, Tensor]:
        return {
            name: leave_one_out(
                Side(images[name], lambda rows, name=name: self.images.read(f"{IMAGES}/{name}", rows)),
                Side(reconstructions[name], lambda rows, name=name: self.file.read(f"{RECONSTRUCTIONS}/{name}", rows)),
                names,
            )
            for name in reconstructions
            if f"{RECONSTRUCTIONS}/{name}" in self.file.columns
        }


def _of_network(asked: SetMetrics, sides: Sequence[FeatureRows], network: torch.nn.Module) -> Found:
    """KID, precision and recall, by name; ``sides`` are reconstructions and images."""
    values, unavailable, suffix, count = {}, {}, suffix_of(network), sides[0].count
    if asked.kid:
        if count < SUBSET_SIZE:
            unavailable[f"kid{suffix}"] = f"its subsets have {SUBSET_SIZE:,} images, more than {count:,}"
        else:
            values |= dict(zip((f"kid{suffix}", f"kid_std{suffix}"), kernel_distance(*sides), strict=True))
    if asked.precision_recall:
        if count <= NEIGHBOURS:
            unavailable |= dict.fromkeys((f"precision{suffix}", f"recall{suffix}"), f"needs {NEIGHBOURS + 1} images")
        else:
            values |= dict(zip((f"precision{suffix}", f"recall{suffix}"), precision_recall(*sides), strict=True))
    return Found({}, values, unavailable)


def suffix_of(network: torch.nn.Module) -> str:
    """End of the names of a network's metrics: empty for the official Inception."""
    return "" if isinstance(network, Inception) and network.official else f"_{network.name}"


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
    prepared: dict[Preparation, list[tuple[str, ...]]] = {}
    for protocol in protocols.values():
        prepared.setdefault(protocol.preparation, []).append(protocol.view)
    floats = sum(sum(asked.columns(views, networks).values()) for views in prepared.values())
    size = floats * FLOAT.itemsize * (1 + tokenizers)
    if not size or images is not None and images * size < 1e8:
        return ""
    amount = f"{size / 1e3:,.0f} kB an image" if images is None else f"{images * size / 1e9:.1f} GB"
    without = "; metrics.intervals=false needs none" if asked == SetMetrics(True) and not networks.clip else ""
    return f"features of single images take {amount} on disk until the end{without}"
