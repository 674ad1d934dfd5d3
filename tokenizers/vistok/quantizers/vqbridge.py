"""VQBridge: a codebook mapped by a small transformer over all codewords (FVQ, arXiv:2509.10140)."""

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vistok.quantizers import base
from vistok.quantizers.estimators import Estimator, StraightThrough
from vistok.quantizers.mapped import MappedCodebook

Size = Literal["XS", "S", "B", "L", "XL"]
SIZES: dict[Size, int] = {"XS": 32, "S": 64, "B": 128, "L": 256, "XL": 512}  # width of the transformer
HEADS = 4
VARIANTS = ("vit", "dit")


class VQBridge(MappedCodebook):
    """Codebook that passes through a transformer, so that every step moves every codeword; inference omits the bridge.

    Args:
        codebook_size: Number of codewords n, at least 2.
        dim: Codeword dimension d, the channels of the latent.
        size: Width of the bridge by name: ``XS``, ``S``, ``B``, ``L`` or ``XL``.
        patch: p; each token of the bridge represents p × p codewords.
        depth: Number of transformer blocks.
        variant: ``vit``, plain blocks as in the paper; or ``dit``, the blocks of the published training scripts, with
            fixed positions and an unconditional modulation.
        estimator: Gradient estimator of the codeword choice.
    """

    stored_names = {"basis": "table"}

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        size: Size = "L",
        patch: int = 4,
        depth: int = 2,
        variant: Literal["vit", "dit"] = "vit",
        estimator: Estimator = StraightThrough(),
    ):
        super().__init__()
        base.check_size(codebook_size)
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, not {size!r}")
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
        self.codebook_size, self.dim, self.codebook_sizes = codebook_size, dim, (codebook_size,)
        self.size, self.patch, self.depth, self.variant, self.estimator = size, patch, depth, variant, estimator
        self.basis = nn.Parameter(torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size))
        self.bridge = Bridge(grid_of(codebook_size, patch), dim, SIZES[size], patch, depth, modulated=variant == "dit")

    @base.in_float32
    def codebook(self) -> Tensor:  # (n, d)
        rows, columns = self.bridge.grid
        padded = F.pad(self.basis.float(), (0, 0, 0, rows * columns - self.codebook_size))
        return base.called_in_float32(self.bridge, padded)[: self.codebook_size]


def grid_of(codebook_size: int, patch: int) -> tuple[int, int]:
    """Rows and columns, multiples of ``patch``, in which a codebook is arranged.

    A square where ``patch`` divides the root of a square size, as published. Other sizes take the grid with the fewest
    unused places (zeros, dropped after the bridge), and of these the one nearest to a square: 8,192 codewords in
    patches of 4 make 64 × 128 without unused places.

    Raises:
        ValueError: A patch is larger than the side of the codebook.
    """
    side = math.isqrt(codebook_size - 1) + 1
    if not 1 <= patch <= side:
        raise ValueError(f"patch={patch} must be between 1 and {side}, the side of a codebook of {codebook_size}")
    cell = patch * patch
    tokens = -(-codebook_size // cell)
    rows = range(1, math.isqrt(tokens) + 2)
    _, _, across, down = min((r * -(-tokens // r), abs(r - -(-tokens // r)), -(-tokens // r), r) for r in rows)
    return down * patch, across * patch


class Bridge(nn.Module):
    """Maps a codebook (rows · columns, d) to one of the same shape: p × p codewords to a token, transformer, and back.

    There is no residual connection, and the last layer starts at zero, so that all codewords are zero at first (as
    released).

    Args:
        grid: Rows and columns of the codebook.
        dim: Codeword dimension d.
        width: Width of the transformer.
        patch: p.
        depth: Number of transformer blocks.
        modulated: True uses blocks of DiT (arXiv:2212.09748) with one learned condition, and fixed positions.
    """

    def __init__(self, grid: tuple[int, int], dim: int, width: int, patch: int, depth: int, modulated: bool):
        super().__init__()
        self.grid, self.patch = grid, patch
        self.compress = nn.Conv2d(dim, width, patch, stride=patch)
        self.blocks = nn.ModuleList(BridgeBlock(width, modulated) for _ in range(depth))
        self.recover = nn.Linear(width, patch * patch * dim)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.compress.weight.flatten(1))
        nn.init.zeros_(cast(Tensor, self.compress.bias))
        self.positions = self.condition = self.modulation = None
        if modulated:
            positions = sincos_positions(grid[0] // patch, grid[1] // patch, width)
            self.positions = nn.Parameter(positions, requires_grad=False)
            self.condition = nn.Parameter(torch.randn(width) * 0.02)
            self.modulation = nn.Linear(width, 2 * width)
            for modulation in (self.modulation, *(block.modulation for block in self.blocks)):
                zero(cast(nn.Linear, modulation))
        zero(self.recover)

    def forward(self, codebook: Tensor) -> Tensor:
        rows, columns = self.grid
        tokens = self.compress(rearrange(codebook, "(r c) d -> 1 d r c", r=rows))
        tokens = rearrange(tokens, "1 d r c -> (r c) d")
        if self.positions is not None:
            tokens = tokens + self.positions
        for block in self.blocks:
            tokens = block(tokens, self.condition)
        tokens = normalized(tokens)
        if self.modulation is not None and self.condition is not None:
            shift, scale = self.modulation(F.silu(self.condition)).chunk(2)
            tokens = tokens * (1 + scale) + shift
        p = self.patch
        return rearrange(self.recover(tokens), "(r c) (p q d) -> (r p c q) d", r=rows // p, p=p, q=p)


class BridgeBlock(nn.Module):
    """Pre-norm transformer block over tokens (t, width) with 4 heads and an MLP of twice the width.

    Args:
        width: Number of channels.
        modulated: True shifts and scales the input of each part, and gates its output, by a condition (adaLN-Zero).
    """

    def __init__(self, width: int, modulated: bool):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU("tanh"), nn.Linear(2 * width, width))
        self.modulation = nn.Linear(width, 6 * width) if modulated else None

    def attend(self, tokens: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(tokens), "t (three h d) -> three 1 h t d", three=3, h=HEADS)
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "1 h t d -> t (h d)"))

    def forward(self, tokens: Tensor, condition: Tensor | None) -> Tensor:
        if self.modulation is None or condition is None:
            tokens = tokens + self.attend(normalized(tokens))
            return tokens + self.mlp(normalized(tokens))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(F.silu(condition)).chunk(6)
        tokens = tokens + gate_a * self.attend(normalized(tokens) * (1 + scale_a) + shift_a)
        return tokens + gate_m * self.mlp(normalized(tokens) * (1 + scale_m) + shift_m)


def normalized(tokens: Tensor) -> Tensor:
    """Layer norm without weights."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def zero(layer: nn.Linear) -> None:
    """Initialises a layer so that its output is zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Fixed 2-D positions (rows · columns, width): sines and cosines of the column, then of the row, a quarter each."""
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()
