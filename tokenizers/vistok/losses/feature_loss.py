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
        channels: Channels of the network's input, 3 or 1; 1 is the mean of red, green and blue.
        pixel_range: Values that the network knows as black and white, such as (-1024, 1024) for torchxrayvision's; None
            normalises with the library's mean and standard deviation, which are those of RGB.

    Raises:
        WeightsUnavailable: The download failed.
        ValueError: The library has no such model or weights, the file does not fit, a stage does not exist, or the
            pixel range is missing or empty.
    """

    network: Any  # timm's, or torchvision's
    mean: Tensor  # (3, 1, 1), or (1, 1, 1) with a pixel range
    std: Tensor

    def __init__(
        self,
        model: str = "convnext_small",
        weights: str | Path = "pretrained",
        stages: Sequence[int] | None = None,
        size: int | None = 224,
        library: Literal["timm", "torchvision"] = "timm",
        channels: int = 3,
        pixel_range: Sequence[float] | None = None,
    ):
        super().__init__()
        if library not in LIBRARIES:
            raise ValueError(f"library must be one of {', '.join(LIBRARIES)}, not {library!r}")
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, not {channels}")
        if pixel_range is not None and not (len(pixel_range) == 2 and pixel_range[0] < pixel_range[1]):
            raise ValueError(f"pixel_range is [LOW, HIGH], with LOW below HIGH, not {list(pixel_range)}")
        if pixel_range is None and channels == 1:
            raise ValueError("channels=1 needs pixel_range: the values that the network knows as black and white")
        self.stages, self.size, self.library = None if stages is None else list(stages), size, library
        self.channels = channels
        if library == "timm":
            self.network, settings = timm_network(model, weights, stages is None, channels)
            count, mean, std = len(self.network.feature_info), settings["mean"], settings["std"]
        else:
            self.network, settings = torchvision_features(model, weights, channels)
            count, mean, std = len(self.network), settings.mean, settings.std
            if stages is None:
                raise ValueError(f"stages=null compares logits, which {library}'s networks are not read for")
            for layer in self.network.modules():
                if isinstance(layer, nn.ReLU | nn.ReLU6):
                    layer.inplace = False  # it would overwrite the map of the preceding layer
        if stages is not None and (not stages or not all(0 <= stage < count for stage in stages)):
            raise ValueError(f"stages must be in 0, ..., {count - 1} for {model}, not {self.stages}")
        if pixel_range is not None:
            low, high = pixel_range
            mean, std = [-low / (high - low)], [1 / (high - low)]
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps (b, c, h, w) of the stages, or only the logits (b, classes)."""
        if self.channels == 1:
            images = images.mean(1, keepdim=True)
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
