"""FSQ: each channel is rounded to one of a few levels (finite scalar quantization, arXiv:2309.15505)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vistok.quantizers import base
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer

MARGIN = 1e-3  # ε: the bound is wider than the outermost levels by this share


class FSQ(Quantizer):
    """Bounds each channel by tanh and rounds it to L levels; a code stands for one combination of levels.

    There is nothing to learn and no loss. The bounded latent is ``tanh(z + s) h - o`` with ``h = (L - 1)(1 + ε) / 2``,
    ``o`` 1/2 for an even L and 0 for an odd one, and ``s = atanh(o / h)``, so that 0 stays 0. It is rounded to the
    nearest integer and divided by ``⌊L / 2⌋``: values are in [-1, 1], and an even L has one more of them below 0 than
    above. (The paper's listing has ``1 - ε`` and ``tan`` instead of ``1 + ε`` and ``atanh``. The form here is that of
    vector-quantize-pytorch, Cosmos and FlexTok; codes differ only at the edges between levels.)

    The gradient passes the rounding unchanged and the bound by the derivative of tanh: it vanishes far from 0. As
    ``tanh(x) = 2 σ(2 x) - 1``, and torch's sigmoid is several times as fast on a CPU, the bound is computed by that.

    Args:
        levels: Number of levels L of each channel of a code, or one number for all. The first channel is the lowest
            digit of a code. The product of all, the number of codewords, is at most 2^62.
        dim: Channels of the latent; None for as many as there are levels in all codes.
        symmetric: True spreads the levels evenly from -1 to 1 (arXiv:2411.19842, section 3.2); L may then be 2. False
            is the paper's form, which needs an L of at least 3.
        num_codebooks: Number of codes k of a position: each stands for ``dim / k`` consecutive channels.
    """

    sizes: Tensor  # (d, 1, 1) int64: L of each channel
    places: Tensor  # (d, 1, 1) int64: place value of each digit in its code
    radius: Tensor  # (d, 1, 1): levels between the values 0 and 1
    bounds: Tensor  # (4, d, 1, 1): 2 s, 2 h, h + o and 2 h / radius of each channel

    def __init__(
        self,
        levels: int | Sequence[int],
        dim: int | None = None,
        symmetric: bool = False,
        num_codebooks: int = 1,
    ):
        super().__init__()
        if num_codebooks < 1:
            raise ValueError(f"num_codebooks must be at least 1, not {num_codebooks}")
        if dim is not None and dim % num_codebooks:
            raise ValueError(f"num_codebooks={num_codebooks} does not divide the latent's {dim} channels")
        channels = None if dim is None else dim // num_codebooks
        levels = [levels] * (1 if channels is None else channels) if isinstance(levels, int) else list(levels)
        if channels is not None and channels != len(levels):
            each = "" if num_codebooks == 1 else f" in num_codebooks={num_codebooks} codes"
            raise ValueError(f"levels={levels} are for {len(levels)} channels, but the latent has dim={dim}{each}")
        least = 2 if symmetric else 3
        if not levels or min(levels) < least:
            hint = "" if symmetric else "; symmetric=True takes 2"
            raise ValueError(f"levels={levels} must be one or more numbers of at least {least}{hint}")
        size = math.prod(levels)
        if size > 2**62:
            raise ValueError(f"levels={levels} have more than 2^62 combinations, which int64 cannot number")
        self.levels, self.symmetric, self.num_codebooks = levels, symmetric, num_codebooks
        self.dim, self.codebook_sizes = len(levels) * num_codebooks, (size,) * num_codebooks
        radius = [(n - 1) / 2 if symmetric else n // 2 for n in levels]
        bounds = [_bound(n, own, 0.0 if symmetric else MARGIN) for n, own in zip(levels, radius, strict=True)]
        for name, values in (
            ("sizes", torch.tensor(levels)),
            ("places", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])),
            ("radius", torch.tensor(radius, dtype=torch.float32)),
            ("bounds", torch.tensor(bounds, dtype=torch.float32).T),
        ):
            of_all = torch.cat([values] * num_codebooks, dim=-1)
            self.register_buffer(name, of_all[..., None, None], persistent=False)

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        shift, height, offset, slope = self.bounds
        bound = torch.add(shift, z.float(), alpha=2).sigmoid()
        rounded = self._rounded((bound.detach() * height).sub_(offset))
        latent = bound * slope
        values = torch.div(rounded, self.radius, out=latent.detach())  # so that latent has them and its own gradient
        return Quantized(latent, self._code(rounded), {}, codewords=values)

    @base.in_float32
    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        return Codes(self._code(self._rounded(self._bounded(z))))

    def compared(self, z: Tensor) -> Tensor:
        """Bounded latent (b, d, h, w), from -1 to 1 as codewords are."""
        return self._bounded(z) / self.radius

    def _bounded(self, z: Tensor) -> Tensor:
        """Bounded latent (b, d, h, w), in levels; level 0 is the value 0."""
        shift, height, offset, _ = self.bounds
        return torch.add(shift, z.float(), alpha=2).sigmoid() * height - offset

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        return self._levels(base.check_codes(codes, self.codebook_sizes)) / self.radius

    def _rounded(self, bounded: Tensor) -> Tensor:
        """Levels (b, d, h, w), from ``-radius``, nearest to a bounded latent, which is overwritten."""
        if self.symmetric:
            return bounded.add_(self.radius).add_(0.5).floor_().sub_(self.radius)
        if max(self.levels) * MARGIN > 1:  # else the wider bound ends nearest to the outermost levels
            bounded.clamp_(-self.radius, self.sizes - 1 - self.radius)
        return bounded.round_()

    def _levels(self, codes: Tensor) -> Tensor:
        """Levels (b, d, h, w), from ``-radius``, of codes (b, k, h, w)."""
        return codes.repeat_interleave(len(self.levels), dim=1) // self.places % self.sizes - self.radius

    def _code(self, levels: Tensor) -> Tensor:
        """Codes (b, k, h, w) of levels (b, d, h, w), which are overwritten."""
        b, _, h, w = levels.shape
        digits = levels.add_(self.radius)
        exact = self.codebook_sizes[0] <= 2**24  # in float32, whose sums are faster
        terms = digits.mul_(self.places.float()) if exact else digits.long().mul_(self.places)
        return terms.view(b, self.num_codebooks, -1, h, w).sum(2).long()

    def near_ties(self, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        bounded = self._bounded(z)
        first, second = (self._levels(codes) for codes in (a, b))
        middle = (bounded - (first + second) / 2).abs() <= base.TIE * self.radius.clamp(min=1)
        inside = (b >= 0) & (b < self.codebook_sizes[0])
        tied = (first == second) | (middle & ((first - second).abs() == 1))
        return inside & tied.unflatten(1, (self.num_codebooks, -1)).all(2)

    def advice(self) -> list[str]:
        return ["a lower optimizer.lr, or fewer levels per channel and more channels"]


def _bound(levels: int, radius: float, margin: float) -> tuple[float, float, float, float]:
    """``2 s``, ``2 h``, ``h + o`` and ``2 h / radius`` of a channel, with shift s, height h and offset o."""
    height, offset = (levels - 1) * (1 + margin) / 2, 0.5 * (levels % 2 == 0 and margin > 0)
    return 2 * math.atanh(offset / height), 2 * height, height + offset, 2 * height / radius
