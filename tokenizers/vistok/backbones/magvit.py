"""Convolutional encoder and decoder without attention, as trained with SimVQ (arXiv:2411.02038, code).

They are Open-MAGVIT2's (arXiv:2409.04410) without its decoder's adaptive norms. Unlike in VQGAN's (``cnn.py``), the
residual blocks have no biases, downsampling pads on all sides, and upsampling makes four channels of each and folds
them into space. With the defaults the encoder has 24,282,496 parameters and the decoder 39,851,907, as published.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vistok.backbones.cnn import Level, ResnetBlock, group_norm
from vistok.backbones.interface import Decoder, Encoder, Sizes
from vistok.quantizers.base import Context


@dataclass(frozen=True)
class MagvitSizes(Sizes):
    """Sizes of the encoder and its decoder; ``MagvitEncoder`` explains them."""

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
        num_blocks: Residual blocks in each level, and of the middle part on the smallest grid.
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
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class MagvitDecoder(Decoder):
    """Maps a latent (b, dim, h, w) to unbounded images (b, out_channels, h * factor, w * factor).

    The arguments are the encoder's. ``levels`` runs from the smallest grid to full resolution, so ``levels[0]`` mirrors
    the encoder's last level; each has as many blocks as the encoder's.
    """

    sizes: MagvitSizes

    def __init__(
        self,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        num_blocks: int = 2,
        dim: int = 128,
        out_channels: int = 3,
    ):
        super().__init__()
        sizes = MagvitSizes(channels, multipliers, num_blocks, dim)
        sizes.describe(self)
        self.out_channels = out_channels

        widths = sizes.widths
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(dim, widths[-1], 3, padding=1)
        self.mid = middle(widths[-1], num_blocks)
        self.levels = nn.ModuleList(
            Level(
                widths[min(i + 1, last)],
                widths[i],
                num_blocks,
                attention=False,
                resample=DepthToSpace(widths[i]) if i else nn.Identity(),
                bias=False,
            )
            for i in reversed(range(len(widths)))
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
        h = self.mid(self.conv_in(latent))
        for level in self.levels:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight at which the adaptive adversarial weight compares gradients."""
        return self.conv_out.weight


class DepthToSpace(nn.Module):
    """Convolution to four times the channels, whose quarters become the four places of each doubled position.

    The place comes before the channel (ONNX's DCR); in ``F.pixel_shuffle`` it comes after (CRD).
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.conv(x), "b (p q c) h w -> b c (h p) (w q)", p=2, q=2)


def middle(width: int, num_blocks: int) -> nn.Sequential:
    """Middle part of both networks, on the smallest grid."""
    return nn.Sequential(*(ResnetBlock(width, width, bias=False) for _ in range(num_blocks)))
