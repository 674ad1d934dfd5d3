"""The networks that images are compared by, as far as their weights can be had."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from torch import nn

from vistok import configuration
from vistok.evaluation.protocols import Protocol
from vistok.losses import LPIPS
from vistok.metrics.feature_networks import DINOv2, FeatureNetwork, Inception
from vistok.pretrained import WeightsUnavailable


class ScoringNetworks(NamedTuple):
    """The networks that images are compared by, as far as their weights can be had."""

    feature_networks: tuple[FeatureNetwork, ...] = ()
    lpips: Mapping[str, nn.Module] = {}  # by the names lpips_alex and lpips_vgg; with ``distance`` of (b, 3, H, W)

    def to(self, device: torch.device | str) -> "ScoringNetworks":
        for network in (*self.feature_networks, *self.lpips.values()):
            network.to(device)
        return self


def score_names(network: FeatureNetwork) -> dict[str, int]:
    """The Fréchet distances that a network's features make, and how many features each has.

    Only the official Inception's are called ``rfid`` and ``sfid``.
    """
    if not isinstance(network, Inception):
        return {f"frechet_{network.name}": network.dim}
    names = ("rfid", "sfid") if network.official else (f"frechet_{network.name}", f"frechet_spatial_{network.name}")
    return dict(zip(names, (network.dim, network.spatial_dim), strict=True))


def networks_of(config: DictConfig, protocols: Sequence[Protocol]) -> tuple[ScoringNetworks, dict[str, str]]:
    """The networks of a config that can be had and that a protocol asks for, and why the others cannot."""
    features, lpips, unavailable = [], {}, {}
    wanted = {name for protocol in protocols for name in protocol.distances}
    for net, weights in (config.lpips or {}).items():
        name = f"lpips_{net}"
        if name in wanted and weights is not None:
            try:
                lpips[name] = LPIPS(net, weights)
            except WeightsUnavailable as error:
                unavailable[name] = str(error)
    if config.network:
        model = config.network.get("model")
        try:
            features.append(configuration.instantiate(config.network))
        except InstantiationException as error:
            if not isinstance(error.__cause__, WeightsUnavailable):
                raise
            unavailable[f"frechet_{model}" if model else "rfid"] = str(error.__cause__)
    if config.dinov2:
        try:
            features.append(DINOv2(config.dinov2))
        except WeightsUnavailable as error:
            unavailable[f"frechet_dinov2_{config.dinov2}"] = str(error)
    return ScoringNetworks(tuple(features), lpips), unavailable
