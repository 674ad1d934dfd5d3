"""Convolutional networks over Haar wavelets, of NVIDIA's Cosmos tokenizers for images (arXiv:2501.03575, code).

Two steps of a Haar transform make 48 channels of each 4 x 4 pixels; the rest are VQGAN's blocks (``cnn.py``), with
attention in the middle alone. With the defaults (f16) the encoder has 34,619,520 parameters and the decoder 49,101,104,
with ``halvings=1`` (f8) 32,259,712 and 46,741,296, as published.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from vistok.backbones.cnn import Downsample, Level, Upsample, group_norm, middle
from vistok.backbones.interface import Decoder, Encoder, Sizes
from vistok.kernels import norm_act
from vistok.quantizers.base import Context

STEPS = 2  # of the Haar transform, each of which halves the sides


@dataclass(frozen=True)
class CosmosSizes(Sizes):
    """Sizes of the encoder and the decoder; ``CosmosEncoder`` explains the fields."""

    channels: int
    multipliers: Sequence[int]
    num_blocks: int
    dim: int
    halvings: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        if not 0 <= self.halvings <= len(self.multipliers):
            raise ValueError(f"halvings={self.halvings} must be 0 to the {len(self.multipliers)} levels")

    @property
    def factor(self) -> int:
        return 2 ** (STEPS + self.halvings)

    @property
    def widths(self) -> list[int]:
        """Channels of each level, the first at the highest resolution."""
        return [self.channels * multiplier for multiplier in self.multipliers]


class CosmosEncoder(Encoder):
    """Maps images (b, in_channels, H, W) in [-1, 1] to a latent (b, dim, H / factor, W / factor).

    Args:
        channels: Channels after the first convolution.
        multipliers: Channels of each level, as multiples of ``channels``.
        num_blocks: Residual blocks in each level.
        dim: Channels of the latent.
        halvings: Levels of the encoder that halve the grid, the first ones; the decoder's first ones double it.
        in_channels: Channels of the images.
    """

    sizes: CosmosSizes

    def __init__(
        self,
        channels: int = 128,
        multipliers: Sequence[int] = (2, 4, 4),
        num_blocks: int = 2,
        dim: int = 256,
        halvings: int = 2,
        in_channels: int = 3,
    ):
        super().__init__()
        sizes = CosmosSizes(channels, multipliers, num_blocks, dim, halvings)
        sizes.describe(self)
        self.in_channels = in_channels

        widths = sizes.widths
        self.conv_in = nn.Conv2d(in_channels * 4**STEPS, channels, 3, padding=1)
        self.levels = nn.ModuleList(
            Level(before, width, num_blocks, False, Downsample(width) if i < halvings else nn.Identity())
            for i, (before, width) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.mid = middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], dim, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(STEPS):
            images = haar(images)
        h = self.conv_in(images)
        for level in self.levels:
            h = level(h)
        return self.conv_out(norm_act(self.mid(h), self.norm_out))


class CosmosDecoder(Decoder):
    """Maps a latent (b, dim, h, w) to unbounded images (b, out_channels, h * factor, w * factor).

    The arguments have the same meaning as the encoder's; ``out_channels`` is the number of channels of the images.
    ``levels`` runs from the smallest grid to the largest; each level has one block more than the encoder's.
    """

    sizes: CosmosSizes

    def __init__(
        self,
        channels: int = 128,
        multipliers: Sequence[int] = (2, 4, 4),
        num_blocks: int = 2,
        dim: int = 256,
        halvings: int = 2,
        out_channels: int = 3,
    ):
        super().__init__()
        sizes = CosmosSizes(channels, multipliers, num_blocks, dim, halvings)
        sizes.describe(self)
        self.out_channels = out_channels

        widths = sizes.widths[::-1]
        self.conv_in = nn.Conv2d(dim, widths[0], 3, padding=1)
        self.mid = middle(widths[0])
        self.levels = nn.ModuleList(
            Level(before, width, num_blocks + 1, False, Upsample(width) if i < halvings else nn.Identity())
            for i, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False))
        )
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels * 4**STEPS, 3, padding=1)

    def forward(
        self,
        latent: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        h = self.mid(self.conv_in(latent))
        for level in self.levels:
            h = level(h)
        images = self.conv_out(norm_act(h, self.norm_out))
        for _ in range(STEPS):
            images = inverse_haar(images)
        return images

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight at which the adaptive adversarial weight compares gradients."""
        return self.conv_out.weight


def haar(images: Tensor) -> Tensor:
    """One step of the Haar transform, (b, c, 2 h, 2 w) to (b, 4 c, h, w).

    The result has all channels' means of 2 x 2 positions, then their differences top less bottom, left less right, and
    of both, each a quarter of the signed sum.
    """
    a, b, c, d = rearrange(images, "b c (h p) (w q) -> (p q) b c h w", p=2, q=2)
    top, bottom, across_top, across_bottom = a + b, c + d, a - b, c - d
    bands = (top + bottom, top - bottom, across_top + across_bottom, across_top - across_bottom)
    return torch.cat(bands, dim=1) / 4


def inverse_haar(bands: Tensor) -> Tensor:
    """Inverse of ``haar``: (b, 4 c, h, w) to (b, c, 2 h, 2 w)."""
    mean, down, across, both = bands.chunk(4, dim=1)
    top, bottom, across_top, across_bottom = mean + down, mean - down, across + both, across - both
    pixels = torch.stack((top + across_top, top - across_top, bottom + across_bottom, bottom - across_bottom))
    return rearrange(pixels, "(p q) b c h w -> b c (h p) (w q)", p=2, q=2)
