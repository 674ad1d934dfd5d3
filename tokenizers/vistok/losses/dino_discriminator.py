"""Discriminator on the features of a frozen vision transformer (StyleGAN-T, arXiv:2301.09515, section 3.2)."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vistok.pretrained import FrozenNetwork, timm_network


class DINODiscriminator(nn.Module):
    """Maps images (b, 3, H, W) in [-1, 1] to a logit for each patch of each selected block, (b, blocks · n).

    Only the heads are trained. There are two differences from the paper: images are resized to the transformer's size,
    not cropped; and the heads have group norms instead of batch norms over parts of a batch, so that no image's logit
    depends on other images. Use it with ``DiffAug``, as the paper does.

    Args:
        model: Name of a ViT in timm.
        weights: ``pretrained`` downloads timm's weights, ``random`` draws random weights (for debugging); any other
            value is the path of a state dict in timm's layout.
        blocks: Transformer blocks, counted from 0, whose outputs get a head each.
        size: Side in pixels of the square that images are resized to (bilinear, antialiased), a multiple of the patch
            size.

    Raises:
        WeightsUnavailable: The download failed.
        ValueError: timm has no such ViT or weights, the file does not fit, or a block does not exist.
    """

    independent = True  # see Adversary.independent

    def __init__(
        self,
        model: str = "vit_small_patch16_224.dino",
        weights: str | Path = "pretrained",
        blocks: Sequence[int] = (2, 5, 8, 11),
        size: int = 224,
    ):
        super().__init__()
        self.features = ViTFeatures(model, weights, blocks, size)
        self.heads = nn.ModuleList(Head(self.features.dim) for _ in blocks)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)
        return torch.cat([head(features) for head, features in zip(self.heads, maps, strict=True)], dim=1)


class ViTFeatures(FrozenNetwork):
    """Patch features (b, d, n) of several blocks of a frozen ViT; gradients pass to the images."""

    mean: Tensor  # (3, 1, 1)
    std: Tensor
    dim: int

    def __init__(self, model: str, weights: str | Path, blocks: Sequence[int], size: int):
        super().__init__()
        self.network, settings = timm_network(model, weights)
        depth = len(getattr(self.network, "blocks", ()))
        if not depth:
            raise ValueError(f"model={model} is not a vision transformer: it has no blocks")
        if not blocks or not all(0 <= block < depth for block in blocks):
            raise ValueError(f"blocks must be in 0, ..., {depth - 1} for {model}, not {list(blocks)}")
        if settings["input_size"][1:] != (size, size):
            self.network.set_input_size((size, size))
        self.blocks, self.size, self.dim = list(blocks), size, self.network.num_features
        self.register_buffer("mean", torch.tensor(settings["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings["std"]).view(3, 1, 1), persistent=False)
        self.freeze()

    def forward(self, images: Tensor) -> list[Tensor]:
        resized = F.interpolate(self.view(images), (self.size, self.size), mode="bilinear", antialias=True)
        prepared = ((resized + 1) / 2 - self.mean) / self.std
        maps = self.network.forward_intermediates(
            prepared, indices=self.blocks, output_fmt="NLC", intermediates_only=True
        )
        return [rearrange(features, "b n d -> b d n") for features in maps]


class Head(nn.Module):
    """Maps features (b, d, n) to logits (b, n): a pointwise layer, a residual layer over nine patches, a projection."""

    def __init__(self, dim: int):
        super().__init__()
        self.first, self.second = layer(dim, 1), layer(dim, 9)
        self.out = spectral_norm(nn.Conv1d(dim, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        x = self.first(features)
        x = (x + self.second(x)) / 2**0.5
        return self.out(x)[:, 0]


def layer(dim: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, padding_mode="circular")
    return nn.Sequential(spectral_norm(convolution), nn.GroupNorm(8, dim), nn.LeakyReLU(0.2))
