"""Networks by which images are compared: feature networks of Fréchet distances, and LPIPS."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from vistok import configuration
from vistok.evaluation.protocols import Protocol
from vistok.losses import LPIPS
from vistok.metrics.feature_networks import DINOv2, FeatureNetwork, Inception
from vistok.metrics.vit_features import CLIPFile, DINOv2File
from vistok.pretrained import WeightHash, WeightsUnavailable, fixed_seed, tensor_hash


class ScoringNetworks(NamedTuple):
    """Networks by which images are compared, as far as their weights are available.

    Attributes:
        feature_networks: Networks of the distances between sets of images.
        lpips: LPIPS networks by the protocols' names, ``lpips_alex`` and ``lpips_vgg``.
        clip: Network of CMMD; None if its weights are not available.
    """

    feature_networks: tuple[FeatureNetwork, ...] = ()
    lpips: Mapping[str, LPIPS] = {}
    clip: FeatureNetwork | None = None

    def to(self, device: torch.device | str) -> "ScoringNetworks":
        for network in filter(None, (*self.feature_networks, *self.lpips.values(), self.clip)):
            network.to(device)
        return self

    def reported(self, distance: str) -> str:
        """Name of a protocol's distance in reports: LPIPS of other than official weights shows digits of their hash."""
        return self.lpips[distance].weight_hash.name(distance) if distance in self.lpips else distance

    def weight_hashes(self) -> dict[str, WeightHash]:
        """Identity of the weights behind each score that a network computes, by the score's name in reports."""
        hashes = {self.reported(name): lpips.weight_hash for name, lpips in self.lpips.items()}
        for network in self.feature_networks:
            own = network.weight_hash or WeightHash(tensor_hash(network.state_dict()), official=False)
            hashes |= dict.fromkeys(score_names(network), own)
        if self.clip and self.clip.weight_hash:
            hashes[f"cmmd_{self.clip.name}"] = self.clip.weight_hash
        return hashes


def score_names(network: FeatureNetwork) -> dict[str, int]:
    """Names of the Fréchet distances from a network's features, with the number of features of each.

    Only those of the official Inception are called ``rfid`` and ``sfid``.
    """
    if not isinstance(network, Inception):
        return {f"frechet_{network.name}": network.dim}
    names = ("rfid", "sfid") if network.official else (f"frechet_{network.name}", f"frechet_spatial_{network.name}")
    return dict(zip(names, (network.dim, network.spatial_dim), strict=True))


def reference_name(view: Sequence[str], score: str) -> str:
    """Key of the statistics of images: everything they depend on besides the images and their crop."""
    return "/".join([*view, score])


def networks_of(config: DictConfig, protocols: Sequence[Protocol]) -> tuple[ScoringNetworks, dict[str, str]]:
    """Builds the networks that a config names and a protocol needs.

    Returns:
        The networks, and for each unavailable score the reason.
    """
    features, lpips, unavailable = [], {}, {}
    wanted = {name for protocol in protocols for name in protocol.distances}
    for net, weights in (config.metrics.lpips or {}).items():
        name = f"lpips_{net}"
        if name in wanted and weights is not None:
            try:
                with fixed_seed():  # random weights are the same in every evaluation
                    lpips[name] = LPIPS(net, weights)
            except WeightsUnavailable as error:
                unavailable[name] = str(error)
    if feature_network := config.get("feature_network"):
        model = feature_network.get("model")
        try:
            features.append(configuration.instantiate(feature_network))
        except InstantiationException as error:
            if not isinstance(error.__cause__, WeightsUnavailable):
                raise
            unavailable[f"frechet_{model}" if model else "rfid"] = str(error.__cause__)
    if config.metrics.dinov2:
        try:
            features.append(DINOv2(config.metrics.dinov2))
        except WeightsUnavailable as error:
            unavailable[f"frechet_dinov2_{config.metrics.dinov2}"] = str(error)
    if config.metrics.fd_dinov2:
        features.append(DINOv2File(config.metrics.fd_dinov2))
    clip = CLIPFile(config.metrics.cmmd) if config.metrics.cmmd else None
    for network in features:
        if network.weight_hash is None:  # a user's class
            network.identify(network.name)
    return ScoringNetworks(tuple(features), lpips, clip), unavailable
