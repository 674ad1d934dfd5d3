"""DQ-VAE's encoder with maps at several resolutions (arXiv:2305.11718, section 3.2 and code).

With the defaults (two maps, f16 and f8) it has 33,042,176 parameters, as published without the router; with
``multipliers=(1, 1, 2, 2, 4, 4)``, ``attention=(3, 4, 5)`` and ``num_maps=3`` it is the published encoder of f32, f16
and f8.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from vistok.backbones.cnn import CNNSizes, group_norm, middle
from vistok.backbones.interface import Encoder
from vistok.kernels import norm_act


class HierarchicalEncoder(Encoder):
    """Maps images (b, in_channels, H, W) in [-1, 1] to ``num_maps`` maps of ``dim`` channels, coarsest first.

    The downsampling path is VQGAN's; each of its last levels ends in its own map. The finest map is (b, dim, H /
    factor, W / factor) and each coarser one half as large. A tokenizer quantizes the finest map and passes the others
    to the head. If the head does not read them (any but ``DynamicQuantizer``), the parameters behind the coarser maps
    get no gradient: ``trainer=ddp`` allows for that, torch's DDP by itself needs ``find_unused_parameters``.

    Args:
        channels: Channels at full resolution.
        multipliers: Channels of each level, as multiples of ``channels``; every level but the last halves the grid.
        num_blocks: Residual blocks in each level.
        attention: Levels (0 is full resolution) whose blocks are followed by self-attention.
        dim: Channels of each map.
        in_channels: Channels of the images.
        num_maps: Number of last levels that end in a map, at least 2.
    """

    sizes: CNNSizes

    def __init__(
        self,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        num_blocks: int = 2,
        attention: Sequence[int] = (3, 4),
        dim: int = 256,
        in_channels: int = 3,
        num_maps: int = 2,
    ):
        super().__init__()
        if not 2 <= num_maps <= len(multipliers):
            raise ValueError(f"num_maps={num_maps} must be between 2 and {len(multipliers)}, the number of levels")
        sizes = CNNSizes(channels, multipliers, num_blocks, attention, dim)
        sizes.describe(self)
        self.in_channels, self.num_maps = in_channels, num_maps
        self.factor = 2 ** (len(multipliers) - num_maps)  # of the finest map

        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.levels = sizes.levels_down()
        self.tails = nn.ModuleList(Tail(width, dim) for width in reversed(sizes.widths[-num_maps:]))  # coarsest first

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        h = self.conv_in(images)
        for level in self.levels[: -self.num_maps]:
            h = level(h)
        features = []
        for level in self.levels[-self.num_maps :]:
            features.append(level.features(h))
            h = level.resample(features[-1])
        return tuple(tail(f) for tail, f in zip(self.tails, reversed(features), strict=True))


class Tail(nn.Module):
    """Output layers from the features of a level to a map."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.mid = middle(width)
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, dim, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv_out(norm_act(self.mid(h), self.norm_out))
