"""Feature statistics of the images themselves, saved under a hash of everything they depend on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vistok.data import ImageDataModule
from vistok.data.shards import Data
from vistok.evaluation import statistics as evaluation_statistics
from vistok.evaluation.accumulator import Scores, reference_name
from vistok.evaluation.identity import identity, identity_of_names
from vistok.evaluation.networks import ScoringNetworks, score_names
from vistok.evaluation.preparation import Preparation
from vistok.evaluation.protocols import Protocol, differences, digest
from vistok.metrics.frechet import FeatureStatistics
from vistok.pretrained import WeightHash

STATISTICS = 2  # version of FeatureStatistics' sums; files of an earlier one are refused


def known_statistics(
    reference: str | None,
    data: Data,
    preparations: Mapping[Preparation, Mapping[str, Protocol]],
    networks: ScoringNetworks,
) -> dict[Preparation, dict[str, FeatureStatistics]]:
    """Reads each preparation's statistics from ``reference``; refuses another protocol, network or set of images."""
    if not reference:
        return {preparation: {} for preparation in preparations}
    known, weights = {}, networks.weight_hashes()
    for preparation, own in preparations.items():
        wanted = {
            reference_name(protocol.view, name): description(data, preparation, protocol.view, name, weights[name])
            for protocol in own.values()
            for network in networks.feature_networks
            for name in score_names(network)
        }
        if isinstance(data, ImageDataModule) and not data.unreadable:
            counts = {own.count for own in load_references(Path(reference), wanted).values()}
            if counts == {data.num_test}:  # else some may be unreadable, which is checked at the end
                wanted = {name: about | identity_of_names(data.test.names()) for name, about in wanted.items()}
        known[preparation] = load_references(Path(reference), wanted)
    return known


def check_reference(
    reference: str, data: Data, preparation: Preparation, own: Mapping[str, Protocol], scores: Scores
) -> None:
    """Refuses a reference whose images differ from the scored ones."""
    images, weights = identity(scores.names, scores.hashes), scores.networks.weight_hashes()
    for protocol in own.values():
        wanted = {
            name: description(data, preparation, protocol.view, score_name, weights[score_name]) | images
            for name in scores.references
            for view, _, score_name in [name.rpartition("/")]
            if view == "/".join(protocol.view)
        }
        load_references(Path(reference), wanted)


def save_reference(path: Path, data: Data, protocols: Mapping[str, Protocol], scores: Mapping[str, Scores]) -> None:
    """Writes the statistics of the images under all protocols. ``scores`` are by preparation, after ``gather``."""
    statistics, descriptions = {}, {}
    for protocol in protocols.values():
        own_scores = scores[protocol.preparation.name]
        held = own_scores.references | own_scores.images
        images, weights = identity(own_scores.names, own_scores.hashes), own_scores.networks.weight_hashes()
        for name, own in held.items():
            view, _, score_name = name.rpartition("/")
            if view == "/".join(protocol.view):
                key = f"{protocol.preparation.name}/{name}"
                statistics[key] = own
                about = description(data, protocol.preparation, protocol.view, score_name, weights[score_name])
                descriptions[key] = about | images
    save_references(path, statistics, descriptions)


def description(
    data: Data, preparation: Preparation, view: Sequence[str], score_name: str, weights: WeightHash
) -> dict[str, Any]:
    """Everything that statistics depend on besides the images."""
    return {
        **preparation._asdict(),
        "image_size": None if preparation.native else data.image_size,
        **dict(zip(("rounding", "file", "frechet"), view, strict=True)),
        "network": score_name,
        "weights_sha256": weights.sha256,
        "statistics": STATISTICS,
    }


def save_references(path: Path, statistics: Mapping[str, FeatureStatistics], descriptions: Mapping[str, dict]) -> None:
    """Writes statistics of images, each under the hash of its description.

    Args:
        path: Path of the file; an existing one is replaced.
        statistics: Statistics by any names.
        descriptions: Everything that each of them depends on, by the same names.
    """
    tensors, about = {}, {}
    for name, own in statistics.items():
        key = digest(descriptions[name])
        about[key] = descriptions[name]
        tensors |= {f"{key}/{part}": tensor for part, tensor in own.save().tensors.items()}
    evaluation_statistics.write(tensors, about, path)


def load_references(path: Path, descriptions: Mapping[str, dict]) -> dict[str, FeatureStatistics]:
    """Reads statistics from a file, by the names of their descriptions.

    Args:
        path: File that ``save_references`` wrote.
        descriptions: Descriptions of the statistics to read. One without ``images`` and their hashes fits any
            images.

    Raises:
        ValueError: The file is not such a file, or lacks a description; the message names the difference.
    """
    if not path.is_file():
        raise ValueError(f"metrics.reference={path} is not a file")
    tensors, about = evaluation_statistics.read(path)
    found = {}
    for name, wanted in descriptions.items():
        fitting = [key for key, held in about.items() if all(held.get(k) == v for k, v in wanted.items())]
        if not fitting:
            nearest = min(about.values(), key=lambda held: sum(held.get(k) != v for k, v in wanted.items()))
            raise ValueError(f"metrics.reference={path} does not fit this evaluation: {differences(nearest, wanted)}")
        prefix = f"{fitting[0]}/"
        own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        found[name] = FeatureStatistics.restored(own)
    return found
