"""Feature losses: comparison of images by the features of a frozen classifier (after arXiv:1603.08155, Eq. 2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.pretrained import FrozenNetwork, timm_network, torchvision_features

LIBRARIES = ("timm", "torchvision")


class FeatureLoss(FrozenNetwork):
    """Distance between the features of reconstructions (b, 3, H, W) in [-1, 1] and those of the images; a scalar.

    With ``stages`` it is the mean over them of ``mean_positions |u - v|²``, where u and v are maps with unit length
    over the channels at each position (as LPIPS compares them, without its learned weights): 0 to 4. Without, it is the
    mean squared difference of the classifier's logits, as in the perceptual loss of MaskGIT's tokenizer and later ones.

    Args:
        model: Name of the model in ``library``, such as ``convnext_small`` or ``resnet50``.
        weights: ``pretrained`` downloads the library's weights, ``random`` draws the same random weights every time
            (for debugging); any other value is the path of a state dict in the library's layout.
        stages: Stages of the network, counted from 0, whose maps are compared; None compares logits. For torchvision's
            networks these are the layers of ``features``, and logits are not available.
        size: Side in pixels of the square that images are resized to (bilinear, antialiased); None does not resize.
        library: ``timm``, or ``torchvision`` for its convnets that have ``features``.

    Raises:
        WeightsUnavailable: The download failed.
        ValueError: The library has no such model or weights, the file does not fit, or a stage does not exist.
    """

    network: Any  # timm's, or torchvision's
    mean: Tensor  # (3, 1, 1)
    std: Tensor

    def __init__(
        self,
        model: str = "convnext_small",
        weights: str | Path = "pretrained",
        stages: Sequence[int] | None = None,
        size: int | None = 224,
        library: Literal["timm", "torchvision"] = "timm",
    ):
        super().__init__()
        if library not in LIBRARIES:
            raise ValueError(f"library must be one of {', '.join(LIBRARIES)}, not {library!r}")
        self.stages, self.size, self.library = None if stages is None else list(stages), size, library
        if library == "timm":
            self.network, settings = timm_network(model, weights, classifier=stages is None)
            count, mean, std = len(self.network.feature_info), settings["mean"], settings["std"]
        else:
            self.network, settings = torchvision_features(model, weights)
            count, mean, std = len(self.network), settings.mean, settings.std
            if stages is None:
                raise ValueError(f"stages=null compares logits, which {library}'s networks are not read for")
            for layer in self.network.modules():
                if isinstance(layer, nn.ReLU | nn.ReLU6):
                    layer.inplace = False  # it would overwrite the map of the preceding layer
        if stages is not None and (not stages or not all(0 <= stage < count for stage in stages)):
            raise ValueError(f"stages must be in 0, ..., {count - 1} for {model}, not {self.stages}")
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps (b, c, h, w) of the stages, or only the logits (b, classes)."""
        if self.size is not None:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        prepared = ((images + 1) / 2 - self.mean) / self.std
        if self.stages is None:
            return [self.network(prepared)]
        if self.library == "timm":
            return self.network.forward_intermediates(prepared, indices=self.stages, intermediates_only=True)
        maps = []
        for layer in self.network[: max(self.stages) + 1]:
            prepared = layer(prepared)
            maps.append(prepared)
        return [maps[stage] for stage in self.stages]

    def forward(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(self.view(images))
        pairs = zip(self.features(self.view(reconstruction)), wanted, strict=True)
        if self.stages is None:
            return torch.stack([F.mse_loss(ours.float(), theirs.float()) for ours, theirs in pairs]).mean()
        return torch.stack([distance(ours, theirs).mean() for ours, theirs in pairs]).mean()


def distance(u: Tensor, v: Tensor) -> Tensor:
    """Squared distances (b, h, w) of feature maps (b, c, h, w) that are normalised over channels, in float32."""
    return (F.normalize(u.float(), dim=1) - F.normalize(v.float(), dim=1)).square().sum(1)
