"""Convolutional encoder and decoder of MaskGIT's tokenizer (arXiv:2202.04200), as ported in open-muse and 1d-tokenizer.

TiTok's proxy tokenizer is this network. It differs from VQGAN's (``cnn.py``): it has no attention, the convolutions of
the residual blocks have no biases, downsampling is average pooling, and the decoder has as many blocks in each level
as the encoder. With the defaults the encoder has 23,775,104 parameters and the decoder 30,478,339, as published. The
published networks have pixels in [0, 1]: ``PixelMap(0.5, 0.5)``.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from vistok.backbones.cnn import Level, Upsample, group_norm
from vistok.backbones.interface import Decoder, Encoder
from vistok.backbones.magvit import MagvitSizes, middle
from vistok.kernels import conv_norm_act, norm_act
from vistok.quantizers.base import Context


class MaskGITEncoder(Encoder):
    """Maps images (b, in_channels, H, W) to a latent (b, dim, H / factor, W / factor).

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
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        num_blocks: int = 2,
        dim: int = 256,
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
            level(before, width, num_blocks, nn.AvgPool2d(2) if i < last else nn.Identity())
            for i, (before, width) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.mid = middle(widths[-1], num_blocks)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(images)
        for part in self.levels:
            h = part(h)
        return self.conv_out(norm_act(self.mid(h), self.norm_out))


class MaskGITDecoder(Decoder):
    """Maps a latent (b, dim, h, w) to unbounded images (b, out_channels, h * factor, w * factor).

    The arguments have the same meaning as the encoder's; ``out_channels`` is the number of channels of the images.
    ``levels`` runs from the smallest grid to full resolution, so ``levels[0]`` mirrors the encoder's last level.
    """

    sizes: MagvitSizes

    def __init__(
        self,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        num_blocks: int = 2,
        dim: int = 256,
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
            level(widths[min(i + 1, last)], widths[i], num_blocks, Upsample(widths[i]) if i else nn.Identity())
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
        for part in self.levels:
            h = part(h)
        return self.conv_out(norm_act(h, self.norm_out))

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight at which the adaptive adversarial weight compares gradients."""
        return self.conv_out.weight


class WideningBlock(nn.Module):
    """Residual block that changes the number of channels; the shortcut starts at its own output, not at its input.

    The ports have it so: the input reaches the output through the two convolutions alone, and the released weights were
    converted for that.
    """

    def __init__(self, before: int, width: int):
        super().__init__()
        self.norm1 = group_norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.norm2 = group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(conv_norm_act(norm_act(x, self.norm1), self.conv1, self.norm2))
        return self.shortcut(h) + h


def level(before: int, width: int, num_blocks: int, resample: nn.Module) -> Level:
    """Residual blocks at one resolution, of which the first may change the width, then the change of resolution."""
    own = Level(width, width, num_blocks, attention=False, resample=resample, bias=False)
    if before != width:
        own.blocks[0] = WideningBlock(before, width)
    return own
