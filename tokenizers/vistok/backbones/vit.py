"""Transformer encoder and decoder of ViT-VQGAN (Yu et al., arXiv:2110.04627, section 3.1), and two relatives.

Three published forms differ in a few arguments; all have a final norm and attention heads of 64 channels.

* The paper's, the defaults here: GELU in the blocks, and after them, in encoder and decoder, a two-layer network with
  tanh. Learned positions and biases everywhere are our choice, since the paper does not specify them. Parameters of
  encoder and decoder (published: 32 M Small, 91 M Base, 599 M Large, each): Small 27,942,912 and 27,188,416, Base
  90,713,088 and 88,794,816, Large 602,384,384 and 596,565,696.
* enhancing-transformers', whose weights are public: tanh in every block instead of after them, sin-cos positions, no
  biases in qkv: ``positions="sincos", activation="tanh", qkv_bias=False, output_mlp_ratio=None``, pixels in [0, 1]. The
  published counts include the fixed positions, which are computed here and not stored.
* BSQ-ViT's (arXiv:2406.07548), after CLIP: a norm before the blocks and no bias of the patches, ``pre_norm=True``; the
  encoder ends without the two-layer network, ``output_mlp_ratio=None``, the decoder with it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from vistok.backbones.interface import Decoder, Encoder, Sizes
from vistok.quantizers.base import Context

ACTIVATIONS = {"gelu": F.gelu, "tanh": torch.tanh}
POSITIONS = ("learned", "sincos")


@dataclass(frozen=True)
class ViTSizes(Sizes):
    """Sizes of a transformer encoder and its decoder; ``ViTEncoder`` explains them."""

    dim: int
    depth: int
    num_heads: int
    head_dim: int
    mlp_ratio: float
    patch: int
    image_size: int
    positions: str
    activation: str
    qkv_bias: bool
    pre_norm: bool
    output_mlp_ratio: float | None
    checkpoint: bool

    @property
    def factor(self) -> int:
        return self.patch

    def transformer(self) -> "Transformer":
        """Transformer of the encoder or the decoder."""
        block = (self.dim, self.num_heads, self.head_dim, self.mlp_ratio, self.activation, self.qkv_bias)
        return Transformer(
            self.dim,
            [Block(*block) for _ in range(self.depth)],
            make_positions(self.positions, self.dim, self.image_size, self.patch),
            self.pre_norm,
            self.checkpoint,
        )


class ViTEncoder(Encoder):
    """Maps images (b, in_channels, H, W) to a latent (b, dim, H / patch, W / patch).

    Args:
        dim: Channels of a token, and of the latent.
        depth: Number of blocks.
        num_heads: Attention heads of each block.
        head_dim: Channels of an attention head; ``num_heads * head_dim`` need not be ``dim``.
        mlp_ratio: Hidden channels of a block's MLP, as a multiple of ``dim``.
        patch: Side in pixels of the square that becomes one token.
        image_size: Side in pixels of images whose positions are not interpolated.
        positions: ``learned``, or ``sincos``: fixed, half of the channels for each axis.
        activation: Activation of the blocks' MLPs, ``gelu`` or ``tanh``.
        qkv_bias: True for biases of queries, keys and values.
        pre_norm: True normalises tokens before the first block, as CLIP does; the patches then have no bias.
        output_mlp_ratio: Hidden channels of the two-layer tanh network after the blocks, as a multiple of ``dim``; None
            for no such network.
        in_channels: Channels of the images.
        checkpoint: True stores only each block's input for the backward pass, which recomputes the rest.

    Raises:
        ValueError: ``positions`` or ``activation`` is unknown, or sizes do not divide.
    """

    sizes: ViTSizes

    def __init__(
        self,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        head_dim: int = 64,
        mlp_ratio: float = 4,
        patch: int = 8,
        image_size: int = 256,
        positions: Literal["learned", "sincos"] = "learned",
        activation: Literal["gelu", "tanh"] = "gelu",
        qkv_bias: bool = True,
        pre_norm: bool = False,
        output_mlp_ratio: float | None = 4,
        in_channels: int = 3,
        checkpoint: bool = False,
    ):
        super().__init__()
        sizes = ViTSizes(
            dim, depth, num_heads, head_dim, mlp_ratio, patch, image_size, positions, activation, qkv_bias, pre_norm,
            output_mlp_ratio, checkpoint,
        )  # fmt: skip
        sizes.describe(self)
        self.in_channels = in_channels

        self.conv_in = nn.Conv2d(in_channels, dim, patch, stride=patch, bias=not pre_norm)
        self.transformer = sizes.transformer()
        self.output = nn.Identity()
        if output_mlp_ratio is not None:
            hidden = round(dim * output_mlp_ratio)
            self.output = nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.Tanh(), nn.Conv2d(hidden, dim, 1))
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.transformer(self.conv_in(images)))


class ViTDecoder(Decoder):
    """Maps a latent (b, dim, h, w) to unbounded images (b, out_channels, h * patch, w * patch).

    The arguments are the encoder's. ``out_channels`` is 6 for the maps of ``vistok.losses.LogitLaplace``.
    """

    sizes: ViTSizes

    def __init__(
        self,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        head_dim: int = 64,
        mlp_ratio: float = 4,
        patch: int = 8,
        image_size: int = 256,
        positions: Literal["learned", "sincos"] = "learned",
        activation: Literal["gelu", "tanh"] = "gelu",
        qkv_bias: bool = True,
        pre_norm: bool = False,
        output_mlp_ratio: float | None = 4,
        out_channels: int = 3,
        checkpoint: bool = False,
    ):
        super().__init__()
        sizes = ViTSizes(
            dim, depth, num_heads, head_dim, mlp_ratio, patch, image_size, positions, activation, qkv_bias, pre_norm,
            output_mlp_ratio, checkpoint,
        )  # fmt: skip
        sizes.describe(self)
        self.out_channels = out_channels

        self.transformer = sizes.transformer()
        if output_mlp_ratio is None:  # as published: one bias for each channel here, for each pixel of a patch below
            self.hidden, self.unfold = nn.Identity(), nn.Identity()
            self.conv_out = nn.ConvTranspose2d(dim, out_channels, patch, stride=patch)
        else:
            hidden = round(dim * output_mlp_ratio)
            self.hidden, self.unfold = nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.Tanh()), nn.PixelShuffle(patch)
            self.conv_out = nn.Conv2d(hidden, out_channels * patch**2, 1)
        self.apply(_initialise)

    def forward(
        self,
        latent: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        return self.unfold(self.conv_out(self.hidden(self.transformer(latent))))

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight at which the adaptive adversarial weight compares gradients."""
        return self.conv_out.weight


class Transformer(nn.Module):
    """Transformer over the tokens of a grid (b, dim, h, w): adds positions, applies the blocks, then a norm."""

    def __init__(self, dim: int, blocks: list["Block"], positions: nn.Module, pre_norm: bool, checkpoint: bool):
        super().__init__()
        self.positions = positions
        self.norm_in = nn.LayerNorm(dim) if pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(blocks)
        self.norm_out = nn.LayerNorm(dim)
        self.checkpoint = checkpoint

    def forward(self, grid: Tensor) -> Tensor:
        positions = self.positions(grid).to(self.norm_out.weight.dtype)  # float32 under autocast, as is then the sum
        x = self.norm_in(rearrange(grid + positions, "b d h w -> b (h w) d"))
        for block in self.blocks:
            if self.checkpoint and torch.is_grad_enabled():
                x = recompute(
                    block, x, use_reentrant=False, preserve_rng_state=False
                )  # a block draws no random numbers
            else:
                x = block(x)
        return rearrange(self.norm_out(x), "b (h w) d -> b d h w", h=grid.shape[2])


class Block(nn.Module):
    """Pre-norm residual block of self-attention and an MLP on tokens (b, n, dim)."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, mlp_ratio: float, activation: str, qkv_bias: bool):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, head_dim, qkv_bias)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp_in = nn.Linear(dim, round(dim * mlp_ratio))
        self.mlp_out = nn.Linear(round(dim * mlp_ratio), dim)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Maps tokens; ``visible`` (b, 1, 1, n) bool hides the others from all."""
        x = x + self.attention(self.norm1(x), visible)
        return x + self.mlp_out(self.activation(self.mlp_in(self.norm2(x))))


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, head_dim: int, qkv_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=qkv_bias)
        self.out = nn.Linear(num_heads * head_dim, dim)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.num_heads)
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v, visible), "b heads n d -> b n (heads d)"))


def make_positions(kind: str, dim: int, image_size: int, patch: int) -> nn.Module:
    """Module that returns the position embeddings (dim, h, w) of a grid (b, dim, h, w): ``learned`` or ``sincos``."""
    if kind not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, not {kind!r}")
    if image_size % patch:
        raise ValueError(f"image_size={image_size} is not a multiple of patch={patch}")
    side = image_size // patch
    return LearnedPositions(dim, side) if kind == "learned" else SinCosPositions(dim, side)


class LearnedPositions(nn.Module):
    """Learned embedding for each position of a grid; bicubic interpolation gives those of other grids."""

    def __init__(self, dim: int, side: int):
        super().__init__()
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim, side, side), std=0.02))

    def forward(self, grid: Tensor) -> Tensor:
        if grid.shape[2:] == self.table.shape[1:]:
            return self.table
        return F.interpolate(self.table[None].float(), grid.shape[2:], mode="bicubic")[0]


class SinCosPositions(nn.Module):
    """Sines, then cosines of the column, then of the row, at wavelengths from 2π up (arXiv:1706.03762, section 3.5).

    Grids of another size are scaled to one of ``side`` by ``side``, which gives fractional coordinates.
    """

    def __init__(self, dim: int, side: int):
        super().__init__()
        if dim % 4:
            raise ValueError(f"sin-cos positions need dim to be a multiple of 4, not {dim}")
        self.dim, self.side = dim, side

    def forward(self, grid: Tensor) -> Tensor:
        height, width = grid.shape[2:]
        columns = self.waves(width, grid.device)[:, None, :].expand(-1, height, -1)
        rows = self.waves(height, grid.device)[:, :, None].expand(-1, -1, width)
        return torch.cat([columns, rows])

    def waves(self, length: int, device: torch.device) -> Tensor:
        """Sines and cosines (dim / 2, length) of the coordinates along one axis."""
        n = self.dim // 4
        frequencies = 10000.0 ** -(torch.arange(n, device=device) / n)
        coordinates = (torch.arange(length, device=device) + 0.5) * (self.side / length) - 0.5
        angles = frequencies[:, None] * coordinates
        return torch.cat([angles.sin(), angles.cos()])


def _initialise(module: nn.Module) -> None:
    """Initialises every linear map by ViT's truncated normal distribution."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
