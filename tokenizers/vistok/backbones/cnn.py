"""Convolutional encoder and decoder of VQGAN (Esser et al., arXiv:2012.09841, appendix table 8).

LlamaGen's VQ-16 (arXiv:2406.06525) is the same network under other names; its VQ-8 and the first stages of latent
diffusion (arXiv:2112.10752) have other arguments. With the defaults the encoder has 29,298,176 parameters and the
decoder 42,449,795, as published.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vistok.backbones.interface import Decoder, Encoder, Sizes
from vistok.kernels import conv_norm_act, forked_norm_act, norm_act
from vistok.quantizers.base import Context


@dataclass(frozen=True)
class CNNSizes(Sizes):
    """Sizes of a convolutional encoder and its decoder; ``CNNEncoder`` explains them."""

    channels: int
    multipliers: Sequence[int]
    num_blocks: int
    attention: Sequence[int]
    dim: int
    patch: int = 1
    mid_attention: bool = True
    norm_groups: int = 32
    halvings: int | None = None

    def __post_init__(self) -> None:
        if self.halvings is not None and not 0 <= self.halvings < len(self.multipliers):
            raise ValueError(f"halvings={self.halvings} must be 0 to {len(self.multipliers) - 1}")
        outside = [level for level in self.attention if not 0 <= level < len(self.multipliers)]
        if outside:
            raise ValueError(
                f"attention names the levels {outside}, but there are levels 0 to {len(self.multipliers) - 1}"
            )
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention", tuple(self.attention))

    @property
    def factor(self) -> int:
        return self.patch * 2**self.num_halvings

    @property
    def num_halvings(self) -> int:
        """Levels that halve the grid, the first ones."""
        return len(self.multipliers) - 1 if self.halvings is None else self.halvings

    @property
    def widths(self) -> list[int]:
        """Channels of each level, the first at full resolution."""
        return [self.channels * multiplier for multiplier in self.multipliers]

    def levels_down(self) -> "nn.ModuleList":
        """Levels of the encoder."""
        return nn.ModuleList(
            Level(
                before,
                width,
                self.num_blocks,
                i in self.attention,
                Downsample(width) if i < self.num_halvings else nn.Identity(),
                groups=self.norm_groups,
            )
            for i, (before, width) in enumerate(zip([self.channels, *self.widths], self.widths, strict=False))
        )


class CNNEncoder(Encoder):
    """Maps images (b, in_channels, H, W) in [-1, 1] to a latent (b, dim, H / factor, W / factor).

    Args:
        channels: Channels at full resolution.
        multipliers: Channels of each level, as multiples of ``channels``; every level but the last halves the grid.
        num_blocks: Residual blocks in each level.
        attention: Levels (0 is full resolution) whose blocks are followed by self-attention. The published f16 model
            has it in level 4, where the grid of a 256-pixel image is 16 wide.
        dim: Channels of the latent.
        in_channels: Channels of the images.
        patch: Side in pixels of the square that the first convolution maps to one position. 1 is VQGAN; larger values
            skip the levels of high resolution, which take most of the time.
        mid_attention: True for self-attention between the blocks on the smallest grid; latent diffusion's f4 model
            without attention has none.
        norm_groups: Groups of the norms; for a width that it does not divide, the greatest common divisor. With as
            many groups as channels each norm removes a channel's mean, and with it the brightness of an image. The
            network then infers it from the image's borders, and is wrong at sizes that it was not trained at.
        halvings: Levels that halve the grid, the first ones, instead of all but the last.
    """

    sizes: CNNSizes

    def __init__(
        self,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        num_blocks: int = 2,
        attention: Sequence[int] = (4,),
        dim: int = 256,
        in_channels: int = 3,
        patch: int = 1,
        mid_attention: bool = True,
        norm_groups: int = 32,
        halvings: int | None = None,
    ):
        super().__init__()
        sizes = CNNSizes(channels, multipliers, num_blocks, attention, dim, patch, mid_attention, norm_groups, halvings)
        sizes.describe(self)
        self.in_channels = in_channels

        width = sizes.widths[-1]
        self.conv_in = nn.Conv2d(in_channels * patch**2, channels, 3, padding=1)
        self.levels = sizes.levels_down()
        self.mid = middle(width, mid_attention, norm_groups)
        self.norm_out = group_norm(width, norm_groups)
        self.conv_out = nn.Conv2d(width, dim, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(images, self.patch))
        for level in self.levels:
            h = level(h)
        return self.conv_out(norm_act(self.mid(h), self.norm_out))


class CNNDecoder(Decoder):
    """Maps a latent (b, dim, h, w) to unbounded images (b, out_channels, h * factor, w * factor).

    The arguments are the encoder's. ``levels`` runs from the smallest grid to full resolution, so ``levels[0]`` mirrors
    the encoder's last level; each level has one block more than the encoder's.
    """

    sizes: CNNSizes

    def __init__(
        self,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        num_blocks: int = 2,
        attention: Sequence[int] = (4,),
        dim: int = 256,
        out_channels: int = 3,
        patch: int = 1,
        mid_attention: bool = True,
        norm_groups: int = 32,
        halvings: int | None = None,
    ):
        super().__init__()
        sizes = CNNSizes(channels, multipliers, num_blocks, attention, dim, patch, mid_attention, norm_groups, halvings)
        sizes.describe(self)
        self.out_channels = out_channels

        widths = sizes.widths
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(dim, widths[-1], 3, padding=1)
        self.mid = middle(widths[-1], mid_attention, norm_groups)
        self.levels = nn.ModuleList(
            Level(
                widths[min(i + 1, last)],
                widths[i],
                num_blocks + 1,
                i in sizes.attention,
                Upsample(widths[i]) if 0 < i <= sizes.num_halvings else nn.Identity(),
                groups=norm_groups,
            )
            for i in reversed(range(len(widths)))
        )
        self.norm_out = group_norm(widths[0], norm_groups)
        self.conv_out = nn.Conv2d(widths[0], out_channels * patch**2, 3, padding=1)

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
        return F.pixel_shuffle(self.conv_out(norm_act(h, self.norm_out)), self.patch)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight at which the adaptive adversarial weight compares gradients."""
        return self.conv_out.weight


class Level(nn.Module):
    """Residual blocks at one resolution, each optionally followed by attention, then the change of resolution."""

    def __init__(
        self,
        before: int,
        width: int,
        num_blocks: int,
        attention: bool,
        resample: nn.Module,
        bias: bool = True,
        groups: int = 32,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(
            ResnetBlock(before if i == 0 else width, width, bias, groups) for i in range(num_blocks)
        )
        self.attentions = nn.ModuleList(
            AttentionBlock(width, groups) if attention else nn.Identity() for _ in self.blocks
        )
        self.resample = resample

    def features(self, h: Tensor) -> Tensor:
        """Features of the level at its own resolution, before the resampling."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(h))
        return h

    def forward(self, h: Tensor) -> Tensor:
        return self.resample(self.features(h))


class ResnetBlock(nn.Module):
    """Two convolutions, each after a norm and SiLU, with a shortcut; ``bias`` applies to the convolutions."""

    def __init__(self, before: int, width: int, bias: bool = True, groups: int = 32):
        super().__init__()
        self.norm1 = group_norm(before, groups)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=bias)
        self.norm2 = group_norm(width, groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.shortcut = nn.Conv2d(before, width, 1, bias=bias) if before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h, x = forked_norm_act(x, self.norm1)
        h = self.conv2(conv_norm_act(h, self.conv1, self.norm2))
        return self.shortcut(x) + h


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions, scaled by width^-0.5."""

    def __init__(self, width: int, groups: int = 32):
        super().__init__()
        self.norm = group_norm(width, groups)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, x = forked_norm_act(x, self.norm, silu=False)
        q, k, v = (rearrange(project(h), "b c h w -> b 1 (h w) c") for project in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(h, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class Downsample(nn.Module):
    """Stride-2 convolution over a grid padded only at the right and bottom, as in every released VQGAN."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2 and a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        # Autocast would enlarge a float32 copy, with the same values.
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x)


def middle(width: int, attention: bool = True, groups: int = 32) -> nn.Sequential:
    """Middle part of both networks, on the smallest grid: residual block, optional attention, residual block."""
    between = AttentionBlock(width, groups) if attention else nn.Identity()
    return nn.Sequential(ResnetBlock(width, width, groups=groups), between, ResnetBlock(width, width, groups=groups))


def group_norm(width: int, groups: int = 32, affine: bool = True) -> nn.GroupNorm:
    """Group norm with eps 1e-6 and ``groups`` groups, or the greatest common divisor of ``groups`` and ``width``."""
    return nn.GroupNorm(math.gcd(groups, width), width, eps=1e-6, affine=affine)
