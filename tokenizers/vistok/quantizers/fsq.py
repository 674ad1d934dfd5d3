"""FSQ: each channel is rounded to one of a few levels (finite scalar quantization, arXiv:2309.15505)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vistok.quantizers import base
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer
from vistok.quantizers.estimators import with_gradient_of

MARGIN = 1e-3  # ε: the bound is wider than the outermost levels by this share


class FSQ(Quantizer):
    """Bounds each channel by tanh and rounds it to L levels; a code stands for one combination of levels.

    There is nothing to learn and no loss. The bounded latent is ``tanh(z + s) h - o`` with ``h = (L - 1)(1 + ε) / 2``,
    ``o`` 1/2 for an even L and 0 for an odd one, and ``s = atanh(o / h)``, so that 0 stays 0. It is rounded to the
    nearest integer and divided by ``⌊L / 2⌋``: values are in [-1, 1], and an even L has one more of them below 0 than
    above. (The paper's listing has ``1 - ε`` and ``tan`` instead of ``1 + ε`` and ``atanh``. The form here is that of
    vector-quantize-pytorch, Cosmos and FlexTok; codes differ only at the edges between levels.)

    The gradient passes the rounding unchanged and the bound by the derivative of tanh: it vanishes far from 0.

    Args:
        levels: Number of levels L of each channel of the latent, or one number for all. The first channel is the lowest
            digit of a code. The product of all, the number of codewords, is at most 2^62.
        dim: Channels of the latent; None for as many as there are levels.
        symmetric: True spreads the levels evenly from -1 to 1 (arXiv:2411.19842, section 3.2); L may then be 2. False
            is the paper's form, which needs an L of at least 3.
    """

    sizes: Tensor  # (d, 1, 1) int64: L of each channel
    places: Tensor  # (d, 1, 1) int64: place value of each digit
    radius: Tensor  # (d, 1, 1): levels between the values 0 and 1
    bounds: Tensor  # (3, d, 1, 1): s, h and o of each channel

    def __init__(self, levels: int | Sequence[int], dim: int | None = None, symmetric: bool = False):
        super().__init__()
        levels = [levels] * (1 if dim is None else dim) if isinstance(levels, int) else list(levels)
        if dim is not None and dim != len(levels):
            raise ValueError(f"levels={levels} are for {len(levels)} channels, but the latent has dim={dim}")
        least = 2 if symmetric else 3
        if not levels or min(levels) < least:
            hint = "" if symmetric else "; symmetric=True takes 2"
            raise ValueError(f"levels={levels} must be one or more numbers of at least {least}{hint}")
        size = math.prod(levels)
        if size > 2**62:
            raise ValueError(f"levels={levels} have more than 2^62 combinations, which int64 cannot number")
        self.levels, self.symmetric = levels, symmetric
        self.dim, self.codebook_sizes = len(levels), (size,)
        bounds = [(0.0, (n - 1) / 2, 0.0) if symmetric else _bound(n) for n in levels]
        for name, values in (
            ("sizes", torch.tensor(levels)),
            ("places", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])),
            ("radius", torch.tensor([(n - 1) / 2 if symmetric else n // 2 for n in levels], dtype=torch.float32)),
            ("bounds", torch.tensor(bounds, dtype=torch.float32).T),
        ):
            self.register_buffer(name, values[..., None, None], persistent=False)

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        bounded = self.compared(z)
        digits = self._digits(bounded)
        values = self._values(digits)
        return Quantized(with_gradient_of(values, bounded / self.radius), self._code(digits), {}, codewords=values)

    @base.in_float32
    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        return Codes(self._code(self._digits(self.compared(z))))

    def compared(self, z: Tensor) -> Tensor:
        """Bounded latent (b, d, h, w), in levels; level 0 is the value 0."""
        shift, height, offset = self.bounds
        return torch.tanh(z.float() + shift) * height - offset

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        codes = base.check_codes(codes, self.codebook_sizes)
        return self._values((codes // self.places % self.sizes).float())

    def _digits(self, bounded: Tensor) -> Tensor:
        """Levels (b, d, h, w) counted from the lowest one, float32."""
        rounded = (bounded + self.radius + 0.5).floor() if self.symmetric else bounded.round() + self.radius
        return rounded.clamp(min=0).minimum(self.sizes - 1)

    def _values(self, digits: Tensor) -> Tensor:
        return (digits - self.radius) / self.radius

    def _code(self, digits: Tensor) -> Tensor:
        return (digits.long() * self.places).sum(1, keepdim=True)

    def near_ties(self, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        bounded = self.compared(z)
        first, second = (codes // self.places % self.sizes - self.radius for codes in (a, b))
        middle = (bounded - (first + second) / 2).abs() <= base.TIE * self.radius.clamp(min=1)
        inside = (b >= 0) & (b < self.codebook_sizes[0])
        return inside & ((first == second) | (middle & ((first - second).abs() == 1))).all(1, keepdim=True)

    def advice(self) -> list[str]:
        return ["a lower optimizer.lr, or fewer levels per channel and more channels"]


def _bound(levels: int) -> tuple[float, float, float]:
    """Shift s, height h and offset o of a channel."""
    height, offset = (levels - 1) * (1 + MARGIN) / 2, 0.5 * (levels % 2 == 0)
    return math.atanh(offset / height), height, offset
