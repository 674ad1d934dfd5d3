"""Feature losses: images compared through a frozen classifier of timm's (after arXiv:1603.08155, Eq. 2)."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.weights import FrozenNetwork, timm_network


class FeatureLoss(FrozenNetwork):
    """How far the features of reconstructions (b, 3, H, W) in [-1, 1] are from those of the images; a scalar.

    With ``stages``, the mean over them of ``mean_positions |u - v|²``, u and v the maps with channels made a unit
    vector at each position (as LPIPS compares them, without its learned weights): 0 to 4. Without, the mean squared
    difference of the classifier's logits, as the perceptual loss of MaskGIT's tokenizer and later ones.

    Args:
        model: Its name in timm, such as ``convnext_small`` or ``resnet50``.
        weights: ``pretrained`` downloads timm's, ``random`` takes the same random ones every time (for debugging),
            anything else is the path of a state dict in timm's layout.
        stages: Stages of the network, counted from 0, whose maps are compared; None compares logits.
        size: Side of the square that images are resized to (bilinear, antialiased); None leaves them as they are.

    Raises:
        WeightsUnavailable: The download failed.
        ValueError: timm has no such model or weights, the file does not fit, or there is no such stage.
    """

    def __init__(
        self,
        model: str = "convnext_small",
        weights: str | Path = "pretrained",
        stages: Sequence[int] | None = None,
        size: int | None = 224,
    ):
        super().__init__()
        self.stages, self.size = None if stages is None else list(stages), size
        self.network, settings = timm_network(model, weights, classifier=stages is None)
        if stages is not None:
            count = len(self.network.feature_info)
            if not stages or not all(0 <= stage < count for stage in stages):
                raise ValueError(f"stages must be in 0, ..., {count - 1} for {model}, not {self.stages}")
        self.register_buffer("mean", torch.tensor(settings["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings["std"]).view(3, 1, 1), persistent=False)
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        """The maps (b, c, h, w) of the stages, or the logits (b, classes) alone."""
        if self.size is not None:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        prepared = ((images + 1) / 2 - self.mean) / self.std
        if self.stages is None:
            return [self.network(prepared)]
        return self.network.forward_intermediates(prepared, indices=self.stages, intermediates_only=True)

    def forward(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(images)
        pairs = zip(self.features(reconstruction), wanted, strict=True)
        if self.stages is None:
            return torch.stack([F.mse_loss(ours.float(), theirs.float()) for ours, theirs in pairs]).mean()
        return torch.stack([distance(ours, theirs).mean() for ours, theirs in pairs]).mean()


def distance(u: Tensor, v: Tensor) -> Tensor:
    """Squared distances (b, h, w) of feature maps (b, c, h, w) with channels made unit vectors, in float32."""
    return (F.normalize(u.float(), dim=1) - F.normalize(v.float(), dim=1)).square().sum(1)
