"""Parts as a stranger would write them, in a file outside the package: a head, an encoder and a decoder."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vistok
from vistok.quantizers import Codes, Context, Layout, Quantized, Quantizer, StraightThrough
from vistok.quantizers.base import check_codes


@vistok.register
class Levels(Quantizer):
    """Each channel is bounded and rounded to one of a few levels (FSQ, arXiv:2309.15505); nothing else is learned.

    Args:
        levels: How many for each channel.
    """

    def __init__(self, levels: list[int]):
        super().__init__()
        self.levels, self.dim = list(levels), len(levels)
        self.codebook_sizes = (math.prod(levels),)
        half = [(n - 1) * (1 + 1e-3) / 2 for n in levels]
        offset = [0.5 * (n % 2 == 0) for n in levels]
        self.half, self.offset = half, offset

    def column(self, values: list[float], like: Tensor) -> Tensor:
        return torch.tensor(values, device=like.device).view(-1, 1, 1)

    def rounded(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Bounded (Eq. 1 of its code), and that rounded."""
        half, offset = self.column(self.half, z), self.column(self.offset, z)
        bounded = (z.float() + (offset / half).atanh()).tanh() * half - offset
        return bounded, bounded.round()

    def code(self, whole: Tensor) -> Tensor:
        codes = torch.zeros_like(whole[:, :1], dtype=torch.int64)
        for i, n in enumerate(self.levels):
            codes = codes * n + whole[:, i : i + 1].long() + n // 2
        return codes

    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        bounded, whole = self.rounded(z)
        scale = self.column([n // 2 for n in self.levels], z)
        latent = whole / scale
        return Quantized(StraightThrough()(bounded / scale, latent), self.code(whole), {}, codewords=latent)

    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        return Codes(self.code(self.rounded(z)[1]))

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        check_codes(codes, self.codebook_sizes)
        digits = []
        for n in reversed(self.levels):
            digits.append((codes % n - n // 2) / (n // 2))
            codes = torch.div(codes, n, rounding_mode="floor")
        return torch.cat(digits[::-1], dim=1).float()


class Block(nn.Module):
    """A ConvNeXt block (arXiv:2201.03545)."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).movedim(1, -1))
        return x + self.out(F.gelu(self.into(h))).movedim(-1, 1)


@vistok.register
class ConvNeXtEncoder(nn.Module):
    """Patches to a latent.

    Args:
        dim: Channels.
        depth: Blocks.
        factor: Pixels along each side of a patch.
        in_channels: Of images.
    """

    def __init__(self, dim: int = 32, depth: int = 2, factor: int = 8, in_channels: int = 3):
        super().__init__()
        self.dim, self.depth, self.factor, self.in_channels = dim, depth, factor, in_channels
        self.stem = nn.Conv2d(in_channels, dim, factor, stride=factor)
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(depth)))

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(self.stem(images))


@vistok.register
class ConvNeXtDecoder(nn.Module):
    """A latent to patches; the arguments are the encoder's."""

    def __init__(self, dim: int = 32, depth: int = 2, factor: int = 8, out_channels: int = 3):
        super().__init__()
        self.dim, self.depth, self.factor, self.out_channels = dim, depth, factor, out_channels
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(depth)))
        self.head = nn.ConvTranspose2d(dim, out_channels, factor, stride=factor)

    @property
    def last_layer(self) -> Tensor:
        return self.head.weight

    def forward(self, latent: Tensor) -> Tensor:
        return self.head(self.blocks(latent))
