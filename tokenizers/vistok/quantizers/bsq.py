"""Binary codes: a bit for the sign of each channel (BSQ, arXiv:2406.07548; LFQ of MAGVIT-v2, arXiv:2310.05737)."""

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vistok.distributed.collectives import mean_with_gradient
from vistok.quantizers import base
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer

LARGEST_TABLE = 22  # bits of codes that are ever laid out side by side
LARGEST_GROUP = 18  # bits of a group, where none is asked for
ROWS_TIMES_HALF = 2**20  # numbers of one half's probabilities that are computed at once


class BinaryQuantizer(Quantizer):
    """``q = a · sign(u)``: 2^dim codewords, the corners of a cube, with nothing to learn and no table to search.

    * BSQ, ``spherical``: ``u = z / |z|`` and ``a = 1 / √dim``, so that codewords lie on the unit sphere too. The first
      channel is the highest bit of a code. The straight-through gradient is that of ``sign``, times a (section 3.2).
    * LFQ: ``u = z`` and ``a = 1``. The first channel is the lowest bit, as in Open-MAGVIT2's code.

    The ``entropy`` loss is that of ``base.entropy``, at all 2^dim codewords and exact, in far fewer operations: bits
    are independent in the soft assignment ``softmax(-|u - c|² / temperature)``, each 1 with
    ``σ(4 a u / temperature)``. The ``commitment`` loss is the mean over channels; BSQ's code has their sum.

    Args:
        dim: Bits of a code, the channels of the latent; at most 62.
        spherical: BSQ, else LFQ.
        temperature: Of the soft assignments: 1 in BSQ's code, 0.01 in Open-MAGVIT2's.
        group: Bits whose joint distribution over the batch is wanted even; those of different groups are taken for
            independent. 1 is BSQ's Eq. 8, as in its published models; ``dim`` is exact. It divides ``dim``, and is at
            most 22; None takes as many as that, up to 18.
    """

    loss_names = ("commitment", "entropy")

    powers: Tensor  # (dim,) int64: what each bit is worth

    def __init__(self, dim: int, spherical: bool = True, temperature: float = 1.0, group: int | None = 1):
        super().__init__()
        if not 1 <= dim <= 62:
            raise ValueError(f"dim must be 1 to 62 bits, which int64 can hold, not {dim}")
        if group is None:
            group = max(bits for bits in range(1, LARGEST_GROUP + 1) if dim % bits == 0)
        if not 1 <= group <= LARGEST_TABLE or dim % group:
            raise ValueError(f"group={group} must divide dim={dim} and be at most {LARGEST_TABLE} bits")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.dim, self.spherical, self.temperature, self.group = dim, spherical, temperature, group
        self.codebook_sizes = (2**dim,)
        self.length = dim**-0.5 if spherical else 1.0  # a
        bits = range(dim)[::-1] if spherical else range(dim)
        self.register_buffer("powers", torch.tensor([2**bit for bit in bits]), persistent=False)

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        u = self.compared(z.float())
        q = torch.where(u > 0, self.length, -self.length)
        losses = {"commitment": base.squared_error(u, q, context.weight)}
        if "entropy" not in context.unused:
            losses["entropy"] = self.entropy(u, context.weight)
        return Quantized(q + self.length * (u - u.detach()), self.code(u), losses, codewords=q)

    @base.in_float32
    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        return Codes(self.code(self.compared(z.float())))

    def compared(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=1) if self.spherical else z

    def code(self, u: Tensor) -> Tensor:
        """The code (b, 1, h, w) of the signs of (b, dim, h, w)."""
        return ((u > 0) * self.powers.view(-1, 1, 1)).sum(1, keepdim=True)

    def entropy(self, u: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean entropy of the soft assignments of (b, dim, h, w) less that of their mean; ``weight`` is (b, h, w)."""
        logits = rearrange(u, "b d h w -> (b h w) d") * (4 * self.length / self.temperature)
        flat = logits.new_ones(len(logits)) if weight is None else weight.flatten()
        rows = max(1, ROWS_TIMES_HALF // 2 ** -(-self.group // 2))
        sums = [
            cast(tuple[Tensor, Tensor], checkpoint(entropy_sums, part, weights, self.group, use_reentrant=False))
            for part, weights in zip(logits.split(rows), flat.split(rows), strict=True)
        ]
        total = mean_with_gradient(flat.sum())
        mean = mean_with_gradient(cast(Tensor, sum(assigned for _, assigned in sums)) / total)
        floor = 1e-8 if self.spherical else 1e-5  # each as its authors have it
        return sum(own for own, _ in sums) / total + (mean * (mean + floor).log()).sum()

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        codes = base.check_codes(codes, self.codebook_sizes)
        ones = codes & self.powers.view(-1, 1, 1) != 0  # (b, d, h, w)
        return torch.where(ones, self.length, -self.length)

    def codebook(self) -> Tensor:
        """All codewords (2^dim, dim), of at most 22 bits."""
        if self.dim > LARGEST_TABLE:
            raise ValueError(f"2^{self.dim} codewords are never laid out; for_inference() needs no table")
        return self.lookup(torch.arange(2**self.dim, device=self.powers.device).view(-1, 1, 1, 1)).flatten(1)

    def near_ties(self, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        u = self.compared(z.double())
        lengths = u.square().sum(1, keepdim=True) + self.dim * self.length**2
        unsure = 4 * self.length * u.abs() <= base.TIE * lengths  # by so much the squared distances differ
        differs = (a ^ b) & self.powers.view(-1, 1, 1) != 0  # (b, d, h, w)
        inside = (b >= 0) & (b < self.codebook_sizes[0])
        return inside & (unsure | ~differs).all(1, keepdim=True)


def entropy_sums(logits: Tensor, weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Of bits with these log-odds (m, d) of being 1, weighted by (m,).

    Returns:
        The sum of the entropies of their tuples, a scalar, and the sums of the probabilities of each tuple of a group,
        (d / group, 2^group), computed as a product of matrices: one has the probabilities of the group's first half of
        bits, the other those of the second.
    """
    one, zero = logits.sigmoid(), (-logits).sigmoid()
    entropies = -(one * F.logsigmoid(logits) + zero * F.logsigmoid(-logits)).sum(1)
    groups = [rearrange(p, "m (n g) -> n m g", g=group) for p in (zero, one)]
    first, second = (tuples(*(p[..., half] for p in groups)) for half in (slice(group // 2), slice(group // 2, None)))
    return (entropies * weight).sum(), ((first * weight[:, None]).mT @ second).flatten(1)


def tuples(zero: Tensor, one: Tensor) -> Tensor:
    """Probabilities of independent bits (..., g) to those of their tuples (..., 2^g), the first bit the highest."""
    joint = zero.new_ones(*zero.shape[:-1], 1)
    for i in range(zero.shape[-1]):
        joint = torch.stack([joint * zero[..., i, None], joint * one[..., i, None]], dim=-1).flatten(-2)
    return joint
