"""Binary codes: one bit for the sign of each channel (BSQ, arXiv:2406.07548; LFQ of MAGVIT-v2, arXiv:2310.05737)."""

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vistok.distributed.collectives import mean_with_gradient
from vistok.quantizers import base
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer

LARGEST_TABLE = 22  # most bits of codes that are ever enumerated
LARGEST_GROUP = 18  # most bits of a default group
ROWS_TIMES_HALF = 2**20  # probabilities of one half that are computed at a time


class BinaryQuantizer(Quantizer):
    """``q = a · sign(u)``: codewords at the corners of a cube, with nothing to learn and no table to search.

    * BSQ, ``spherical``: ``u = z / |z|`` and ``a = 1 / √dim``, so that codewords lie on the unit sphere too. The first
      channel is the highest bit of a code. The straight-through gradient is that of ``sign``, times a (section 3.2).
    * LFQ: ``u = z`` and ``a = 1``. The first channel is the lowest bit, as in Open-MAGVIT2's code.

    The ``entropy`` loss equals ``code_statistics.entropy`` over all 2^dim codewords, exactly and in far fewer
    operations: bits are independent in the soft assignment ``softmax(-|u - c|² / temperature)``, each 1 with
    probability ``σ(4 a u / temperature)``. The ``commitment`` loss is the mean over channels; BSQ's code has their sum.

    Args:
        dim: Number of bits of a position, the channels of the latent.
        spherical: True for BSQ, False for LFQ.
        temperature: Temperature of the soft assignments: 1 in BSQ's code, 0.01 in Open-MAGVIT2's.
        group: Number of bits whose joint distribution over the batch should be uniform; bits of different groups count
            as independent. 1 is BSQ's Eq. 8, as in its published models; all bits of a code is exact. It divides these
            bits and is at most 22; None takes the largest such number up to 18.
        num_codebooks: Number of codes k of a position: each stands for ``dim / k`` consecutive channels, at most 62.
        pooled: True takes one distribution over the batch for all groups together, and the mean of their entropies
            (WeTok, arXiv:2508.05599, its code). False takes a distribution for each group, and the sum of the
            entropies.
        sample_weight: Weight of the entropy of each position's assignment in the ``entropy`` loss (BSQ's γ₀).
        batch_weight: Weight of the entropy of the mean assignment in it (BSQ's γ).
    """

    loss_names = ("commitment", "entropy")

    powers: Tensor  # (dim, 1, 1) int64: place value of each bit in its code

    def __init__(
        self,
        dim: int,
        spherical: bool = True,
        temperature: float = 1.0,
        group: int | None = 1,
        num_codebooks: int = 1,
        pooled: bool = False,
        sample_weight: float = 1.0,
        batch_weight: float = 1.0,
    ):
        super().__init__()
        if num_codebooks < 1 or dim % num_codebooks:
            raise ValueError(f"num_codebooks={num_codebooks} does not divide the latent's {dim} channels")
        self.bits = dim // num_codebooks
        code = f"dim={dim}" if num_codebooks == 1 else f"dim={dim} / num_codebooks={num_codebooks}"
        if not 1 <= self.bits <= 62:
            raise ValueError(f"{code} must be 1 to 62 bits, which int64 can hold")
        if group is None:
            group = max(bits for bits in range(1, LARGEST_GROUP + 1) if self.bits % bits == 0)
        if not 1 <= group <= LARGEST_TABLE or self.bits % group:
            raise ValueError(f"group={group} must divide {code} and be at most {LARGEST_TABLE} bits")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.dim, self.spherical, self.temperature, self.group = dim, spherical, temperature, group
        self.num_codebooks, self.pooled = num_codebooks, pooled
        self.sample_weight, self.batch_weight = sample_weight, batch_weight
        self.codebook_sizes = (2**self.bits,) * num_codebooks
        self.length = dim**-0.5 if spherical else 1.0  # a
        bits = range(self.bits)[::-1] if spherical else range(self.bits)
        powers = torch.tensor([2**bit for bit in bits] * num_codebooks)
        self.register_buffer("powers", powers.view(-1, 1, 1), persistent=False)

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
        """Codes (b, k, h, w) of the signs of (b, dim, h, w)."""
        return ((u > 0) * self.powers).unflatten(1, (self.num_codebooks, self.bits)).sum(2)

    def entropy(self, u: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean entropy of the soft assignments of (b, dim, h, w) minus that of their mean, each with its weight.

        ``weight`` (b, h, w) weights the positions.
        """
        logits = rearrange(u, "b d h w -> (b h w) d") * (4 * self.length / self.temperature)
        flat = logits.new_ones(len(logits)) if weight is None else weight.flatten()
        rows = max(1, ROWS_TIMES_HALF // 2 ** -(-self.group // 2))
        sums = [
            cast(tuple[Tensor, Tensor], checkpoint(entropy_sums, part, weights, self.group, use_reentrant=False))
            for part, weights in zip(logits.split(rows), flat.split(rows), strict=True)
        ]
        total = mean_with_gradient(flat.sum())
        mean = mean_with_gradient(cast(Tensor, sum(assigned for _, assigned in sums)) / total)
        sample = sum(own for own, _ in sums) / total
        if self.pooled:
            sample, mean = sample / len(mean), mean.mean(0)
        floor = 1e-8 if self.spherical else 1e-5  # each as in its authors' code
        return self.sample_weight * sample + self.batch_weight * (mean * (mean + floor).log()).sum()

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        codes = base.check_codes(codes, self.codebook_sizes)
        ones = codes.repeat_interleave(self.bits, dim=1) & self.powers != 0  # (b, d, h, w)
        return torch.where(ones, self.length, -self.length)

    def codebook(self) -> Tensor:
        """All codewords (2^bits, bits) of a code, for at most 22 bits."""
        if self.bits > LARGEST_TABLE:
            raise ValueError(f"2^{self.bits} codewords are too many to enumerate; for_inference() needs no table")
        codes = torch.arange(2**self.bits, device=self.powers.device).view(-1, 1, 1, 1)
        return self.lookup(codes.expand(-1, self.num_codebooks, 1, 1)).flatten(1)[:, : self.bits]

    def near_ties(self, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        u = self.compared(z.double())
        lengths = u.square().sum(1, keepdim=True) + self.dim * self.length**2
        unsure = 4 * self.length * u.abs() <= base.TIE * lengths  # difference of the squared distances
        differs = (a ^ b).repeat_interleave(self.bits, dim=1) & self.powers != 0  # (b, d, h, w)
        inside = (b >= 0) & (b < self.codebook_sizes[0])
        return inside & (unsure | ~differs).unflatten(1, (self.num_codebooks, self.bits)).all(2)


def entropy_sums(logits: Tensor, weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Entropies and probabilities of bits with log-odds (m, d) of being 1, weighted by (m,).

    Returns:
        Sum of the entropies of the rows' tuples, a scalar; and for each group the sums of the probabilities of its
        tuples, (d / group, 2^group). The latter is a matrix product of the probabilities of the group's first and
        second half of bits.
    """
    one, zero = logits.sigmoid(), (-logits).sigmoid()
    entropies = -(one * F.logsigmoid(logits) + zero * F.logsigmoid(-logits)).sum(1)
    groups = [rearrange(p, "m (n g) -> n m g", g=group) for p in (zero, one)]
    first, second = (tuples(*(p[..., half] for p in groups)) for half in (slice(group // 2), slice(group // 2, None)))
    return (entropies * weight).sum(), ((first * weight[:, None]).mT @ second).flatten(1)


def tuples(zero: Tensor, one: Tensor) -> Tensor:
    """Probabilities of independent bits (..., g) to those of their tuples (..., 2^g); the first bit is the highest."""
    joint = zero.new_ones(*zero.shape[:-1], 1)
    for i in range(zero.shape[-1]):
        joint = torch.stack([joint * zero[..., i, None], joint * one[..., i, None]], dim=-1).flatten(-2)
    return joint
