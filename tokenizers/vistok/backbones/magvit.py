"""Convolutional encoder and decoder without attention of Open-MAGVIT2 (arXiv:2409.04410) and SimVQ (arXiv:2411.02038).

They differ from those of VQGAN (``cnn.py``): the convolutions of the residual blocks have no biases, downsampling pads
on all sides, and upsampling is a convolution to four times the channels, which are rearranged as 2 x 2 positions. With
the defaults they are SimVQ's: the encoder has 24,282,496 parameters and the decoder 39,851,907, as published. The
decoders of Open-MAGVIT2, WeTok and BitDance also have adaptive norms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from vistok.backbones import noise
from vistok.backbones.adaptive_norm import AdaptiveGroupNorm
from vistok.backbones.cnn import Level, ResnetBlock, group_norm
from vistok.backbones.interface import Decoder, Encoder, Sizes
from vistok.kernels import norm_act
from vistok.quantizers.base import Context


@dataclass(frozen=True)
class MagvitSizes(Sizes):
    """Sizes of the encoder and the decoder; ``MagvitEncoder`` explains the fields."""

    channels: int
    multipliers: Sequence[int]
    num_blocks: int
    dim: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))

    @property
    def factor(self) -> int:
        return 2 ** (len(self.multipliers) - 1)

    @property
    def widths(self) -> list[int]:
        """Channels of each level, the first at full resolution."""
        return [self.channels * multiplier for multiplier in self.multipliers]


class MagvitEncoder(Encoder):
    """Maps images (b, in_channels, H, W) in [-1, 1] to a latent (b, dim, H / factor, W / factor).

    Args:
        channels: Channels at full resolution.
        multipliers: Channels of each level, as multiples of ``channels``; every level but the last halves the grid.
        num_blocks: Residual blocks in each level, and in the middle part on the smallest grid.
        dim: Channels of the latent.
        in_channels: Channels of the images.
    """

    sizes: MagvitSizes

    def __init__(
        self,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        num_blocks: int = 2,
        dim: int = 128,
        in_channels: int = 3,
    ):
        super().__init__()
        sizes = MagvitSizes(channels, multipliers, num_blocks, dim)
        sizes.describe(self)
        self.in_channels = in_channels

        widths = sizes.widths
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.levels = nn.ModuleList(
            Level(
                before,
                width,
                num_blocks,
                attention=False,
                resample=nn.Conv2d(width, width, 3, stride=2, padding=1) if i < last else nn.Identity(),
                bias=False,
            )
            for i, (before, width) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.mid = middle(widths[-1], num_blocks)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(images)
        for level in self.levels:
            h = level(h)
        return self.conv_out(norm_act(self.mid(h), self.norm_out))


class MagvitDecoder(Decoder):
    """Maps a latent (b, dim, h, w) to unbounded images (b, out_channels, h * factor, w * factor).

    The arguments have the same meaning as the encoder's; ``out_channels`` is the number of channels of the images.
    ``levels`` runs from the smallest grid to full resolution, so ``levels[0]`` mirrors the encoder's last level; each
    level has as many blocks as the encoder's.

    Args:
        adaptive: True normalises what enters each level, with a scale and a shift that depend on the latent: the
            decoder of Open-MAGVIT2.
        generative: True concatenates normal noise to the latent before the first convolution: the decoder of WeTok and
            BitDance for high compression. ``Context.noise`` is the noise, or its generator; without it, evaluation
            decodes equal codes to equal images (``noise.drawn``).
    """

    sizes: MagvitSizes

    def __init__(
        self,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        num_blocks: int = 2,
        dim: int = 128,
        out_channels: int = 3,
        adaptive: bool = False,
        generative: bool = False,
    ):
        super().__init__()
        sizes = MagvitSizes(channels, multipliers, num_blocks, dim)
        sizes.describe(self)
        self.out_channels, self.adaptive, self.generative = out_channels, adaptive, generative
        if generative:
            self.context_fields = frozenset({"noise"})

        widths = sizes.widths
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(2 * dim if generative else dim, widths[-1], 3, padding=1)
        self.mid = middle(widths[-1], num_blocks)
        entering = [widths[min(i + 1, last)] for i in reversed(range(len(widths)))]
        self.norms = nn.ModuleList(AdaptiveGroupNorm(width, dim) for width in entering if adaptive)
        self.levels = nn.ModuleList(
            Level(
                before,
                widths[i],
                num_blocks,
                attention=False,
                resample=DepthToSpace(widths[i]) if i else nn.Identity(),
                bias=False,
            )
            for before, i in zip(entering, reversed(range(len(widths))), strict=True)
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(
        self,
        latent: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        if self.adaptive:
            # As in the authors' code. Where a scale is near zero, the next norm divides by a small deviation, which
            # torch computes in another way for each memory format: images would differ by 1e-3.
            latent = latent.contiguous(memory_format=torch.channels_last)
        entering = latent
        if self.generative:
            entering = torch.cat([latent, noise.drawn(latent, context.noise, self.training)], dim=1)
            entering = entering.contiguous(memory_format=torch.channels_last)
        h = self.mid(self.conv_in(entering))
        for i, level in enumerate(self.levels):
            h = level(self.norms[i](h, latent) if self.adaptive else h)
        return self.conv_out(norm_act(h, self.norm_out))

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight at which the adaptive adversarial weight compares gradients."""
        return self.conv_out.weight


class DepthToSpace(nn.Module):
    """Doubles the grid: a convolution to four times the channels, which are rearranged as 2 x 2 positions.

    The convolution's channels are ordered by position first, then by output channel (DCR in ONNX). The order of
    ``F.pixel_shuffle`` is the opposite (CRD).
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.conv(x), "b (p q c) h w -> b c (h p) (w q)", p=2, q=2)


def middle(width: int, num_blocks: int) -> nn.Sequential:
    """Middle part of both networks, on the smallest grid: ``num_blocks`` residual blocks."""
    return nn.Sequential(*(ResnetBlock(width, width, bias=False) for _ in range(num_blocks)))
