"""Blur-pool discriminator of MaskBit (arXiv:2409.16211), TiTok and Open-MAGVIT2: a CNN with antialiased strides."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vistok.losses.stylegan import Blur


class BlurPoolDiscriminator(nn.Module):
    """Maps images (b, in_channels, H, W) in [-1, 1] to logits (b, 1, grid, grid): high for real ones.

    A convolution of 5 pixels; stages of a convolution, a blur that halves the map, a group norm and a leaky ReLU; the
    largest values on a fixed grid; two convolutions. Each logit depends on one image only. With the defaults it has the
    1,909,889 parameters of TiTok's discriminator (arXiv:2406.07550, code); MaskBit's (arXiv:2409.16211) has four
    stages, Open-MAGVIT2's (arXiv:2409.04410) three and ``grid=None``.

    Args:
        channels: Channels of the first stage; each further stage doubles them.
        num_stages: Number of stages.
        in_channels: Channels of the images.
        taps: Row and column of the blur; None averages squares of 2 x 2 instead.
        grid: Side of the grid of logits. A coarser map is enlarged by repetition, as published. None keeps the map of
            the last stage, (b, 1, h, w).
    """

    repeatable = independent = True  # see Adversary

    def __init__(
        self,
        channels: int = 128,
        num_stages: int = 3,
        in_channels: int = 3,
        taps: Sequence[float] | None = (1, 3, 3, 1),
        grid: int | None = 16,
    ):
        super().__init__()
        widths = [channels, *(channels * 2**i for i in range(num_stages))]
        self.first = nn.Sequential(nn.Conv2d(in_channels, channels, 5, padding=2), nn.LeakyReLU(0.1))
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, width, 3, padding=1),
                    nn.AvgPool2d(2) if taps is None else BlurPool(taps),
                    nn.GroupNorm(math.gcd(32, width), width),
                    nn.LeakyReLU(0.1),
                )
                for before, width in zip(widths, widths[1:], strict=False)
            )
        )
        self.pool = nn.Identity() if grid is None else nn.AdaptiveMaxPool2d(grid)
        self.to_logits = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 1), nn.LeakyReLU(0.1), nn.Conv2d(widths[-1], 1, 5, padding=2)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.to_logits(self.pool(self.stages(self.first(images))))


class BlurPool(nn.Module):
    """Halves both sides of a map (b, c, h, w), rounded up for four taps: a blur of stride 2 (arXiv:1904.11486).

    The padding is that of four taps for any number, as in the authors' code: 1 pixel, and 2 at the end of an odd side.

    Args:
        taps: Row and column of the blur.
    """

    def __init__(self, taps: Sequence[float]):
        super().__init__()
        self.blur = Blur(taps, padding=0, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        return self.blur(F.pad(x, (1, 1 + w % 2, 1, 1 + h % 2)))
