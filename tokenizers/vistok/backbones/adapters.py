"""FQGAN's encoder: VQGAN's downsampling path, then a transformer for each sub-codebook (arXiv:2411.16681, code).

With the defaults (two branches, f16) it has 68,573,952 parameters, as published; with ``multipliers=(1, 2, 2, 4)``,
``attention=(3,)`` and ``grid=32`` it is the published f8 encoder with 68,621,440. The decoder is ``CNNDecoder``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vistok.backbones.cnn import CNNSizes, group_norm, middle
from vistok.backbones.interface import Encoder
from vistok.backbones.vit import Block, LearnedPositions, Transformer
from vistok.kernels import norm_act


class BranchedEncoder(Encoder):
    """Maps images (b, in_channels, H, W) in [-1, 1] to the latents of all branches, (b, dim, H / factor, W / factor).

    The branches' latents are concatenated on the channels, in the order of the sub-codebooks. A 1x1 convolution with
    ``groups=branches`` as the tokenizer's ``to_latent`` keeps them separate.

    Args:
        channels: Channels at full resolution.
        multipliers: Channels of each level, as multiples of ``channels``; every level but the last halves the grid.
        num_blocks: Residual blocks in each level.
        attention: Levels (0 is full resolution) whose blocks are followed by self-attention.
        dim: Channels of the latent, of all branches together.
        in_channels: Channels of the images.
        branches: Number of branches k.
        grid: Side of the latent grid of the learned positions, which are interpolated to other grids.
        depth: Transformer blocks of a branch.
        heads: Attention heads of a block; must divide the channels of the last level.
    """

    sizes: CNNSizes

    def __init__(
        self,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        num_blocks: int = 2,
        attention: Sequence[int] = (4,),
        dim: int = 512,
        in_channels: int = 3,
        branches: int = 2,
        grid: int = 16,
        depth: int = 6,
        heads: int = 8,
    ):
        super().__init__()
        if branches < 1 or dim % branches:
            raise ValueError(f"branches={branches} does not divide the latent's dim={dim}")
        sizes = CNNSizes(channels, multipliers, num_blocks, attention, dim)
        sizes.describe(self)
        self.in_channels, self.side, self.depth, self.heads = in_channels, grid, depth, heads

        width = sizes.widths[-1]
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.levels = sizes.levels_down()
        self.mid = middle(width)
        self.tails = nn.ModuleList(Branch(width, dim // branches, grid, depth, heads) for _ in range(branches))

    @property
    def branches(self) -> int:
        """Number of branches."""
        return len(self.tails)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(images)
        for level in self.levels:
            h = level(h)
        h = self.mid(h)
        return torch.cat([tail(h) for tail in self.tails], dim=1)


class Branch(nn.Module):
    """Layers of one sub-codebook: an adapter and VQGAN's output layers."""

    def __init__(self, width: int, dim: int, grid: int, depth: int, heads: int):
        super().__init__()
        self.adapter = Transformer(width, clip_blocks(width, depth, heads), learned_positions(width, grid), True, False)
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, dim, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv_out(norm_act(self.adapter(h), self.norm_out))


def clip_blocks(width: int, depth: int, heads: int) -> list[Block]:
    """CLIP's residual attention blocks with the exact GELU; initialised like torch's own attention."""
    if width % heads:
        raise ValueError(f"heads={heads} does not divide the {width} channels of a transformer")
    blocks = [Block(width, heads, width // heads, 4, "gelu", qkv_bias=True) for _ in range(depth)]
    for block in blocks:
        nn.init.xavier_uniform_(block.attention.qkv.weight)
        nn.init.zeros_(block.attention.qkv.bias)
        nn.init.zeros_(block.attention.out.bias)
    return blocks


def learned_positions(width: int, grid: int) -> LearnedPositions:
    """Learned positions of a square grid, initialised at CLIP's scale."""
    positions = LearnedPositions(width, grid)
    nn.init.normal_(positions.table, std=width**-0.5)
    return positions
