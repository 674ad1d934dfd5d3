"""Gumbel-softmax codes: a categorical choice whose samples have gradients (arXiv:1611.01144; VQGAN's code)."""

import math
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vistok.kernels.propagation import largest
from vistok.quantizers import base
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer, Table

WIDE = 128  # channels of codewords whose gradients take longest: four times as many logits are computed together
SCORES_AT_ONCE = 2**20  # logits whose samples are computed together, and again in the backward pass


class GumbelQuantizer(Quantizer):
    """Scores every code by a linear layer, and samples one at each position in training.

    A sample is ``softmax((logits + noise) / temperature)`` with Gumbel noise, and the latent is the codewords' mean
    under it; with ``straight_through`` it is the codeword of the largest entry, with the gradient of that mean. In
    evaluation the code is the largest logit, without noise. (VQGAN's released code draws noise in evaluation too, so
    that its codes differ from call to call.)

    The ``kl`` term is the divergence of ``softmax(logits)`` from uniform choices, which keeps codes in use. There is no
    commitment loss.

    The temperature begins at ``start``, rises linearly to ``temperature`` during ``warmup`` updates and falls to
    ``final`` along half a cosine, where it arrives after ``updates``; it reads ``context.progress``.

    Args:
        codebook_size: Number of codewords n, at least 2.
        dim: Codeword dimension d, the channels of the quantized latent.
        input_dim: Channels of the encoder's latent; None for ``dim``.
        straight_through: True decodes one codeword; False a mixture of all, in training.
        temperature: Highest temperature.
        final: Temperature at the end.
        start: Temperature of the first update; None for ``temperature``.
        warmup: Updates from ``start`` to ``temperature``.
        updates: Updates until ``final``.
    """

    loss_names = ("kl",)
    stored_names = {"codewords": "table"}

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        input_dim: int | None = None,
        straight_through: bool = True,
        temperature: float = 0.9,
        final: float = 1e-6,
        start: float | None = None,
        warmup: int = 0,
        updates: int = 1_000_001,
    ):
        super().__init__()
        base.check_size(codebook_size)
        for name, value in {"temperature": temperature, "final": final, "start": start}.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        if not 0 <= warmup < updates:
            raise ValueError(f"warmup={warmup} must be at least 0 and less than updates={updates}")
        self.codebook_size, self.dim, self.codebook_sizes = codebook_size, dim, (codebook_size,)
        self.input_dim, self.straight_through = input_dim, straight_through
        self.temperature, self.final, self.start, self.warmup, self.updates = temperature, final, start, warmup, updates
        self.logits = nn.Conv2d(input_dim or dim, codebook_size, 1)
        self.codewords = nn.Parameter(torch.randn(codebook_size, dim))

    @property
    def bias(self) -> Tensor:
        """Bias (n,) of the logits."""
        return cast(Tensor, self.logits.bias)

    def temperature_at(self, update: int) -> float:
        """Temperature of an update, counted from 0."""
        if update < self.warmup:
            start = self.temperature if self.start is None else self.start
            return start + (self.temperature - start) * update / self.warmup
        share = min(1.0, (update - self.warmup) / (self.updates - self.warmup))
        return self.final + 0.5 * (self.temperature - self.final) * (1 + math.cos(math.pi * share))

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        vectors = rearrange(z.float(), "b d h w -> (b h w) d")
        weight = vectors.new_ones(len(vectors)) if context.weight is None else context.weight.flatten().to(vectors)
        temperature = self.temperature_at(context.progress or 0) if self.training else None
        rows = max(1, SCORES_AT_ONCE * (4 if self.dim >= WIDE else 1) // self.codebook_size)
        parts = [
            checkpoint(self._sample, own, w, temperature, use_reentrant=False)
            for own, w in zip(vectors.split(rows), weight.split(rows), strict=True)
        ]
        latents, codes, divergences = (torch.cat(own) for own in zip(*parts, strict=True))
        if self.training:
            codes = rearrange(codes, "(b h w) -> b 1 h w", b=len(z), h=z.shape[2])
            latent = rearrange(latents, "(b h w) d -> b d h w", b=len(z), h=z.shape[2])
        else:
            codes = self.encode(z).codes
            latent = base.lookup(codes, self.codewords.float())
        chosen = base.lookup(codes, self.codewords.float())
        return Quantized(latent, codes, {"kl": divergences.mean()}, codewords=chosen)

    def _sample(self, vectors: Tensor, weight: Tensor, temperature: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (m, d), codes (m,) and weighted divergences (m,) of vectors (m, c).

        Without a temperature the first two are empty.
        """
        logits = vectors @ self.logits.weight.flatten(1).float().T + self.bias.float()
        p = logits.softmax(1)
        divergence = weight * (p * (p * self.codebook_size + 1e-10).log()).sum(1)
        if temperature is None:
            return vectors.new_empty(0, self.dim), divergence.new_empty(0, dtype=torch.int64), divergence
        soft = ((logits + gumbel_noise(logits)) / temperature).softmax(1)
        codes, codewords = largest(soft)[1], self.codewords.float()
        if not self.straight_through:
            return soft @ codewords, codes, divergence
        return F.embedding(codes, codewords) + GradientOfMixture.apply(soft, codewords.detach()), codes, divergence

    @base.in_float32
    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        return Codes(base.largest(z.float(), self.table(0)))

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        codes = base.check_codes(codes, self.codebook_sizes)
        return base.lookup(codes, self.codewords.float())

    def table(self, i: int) -> Table:
        search, bias = self.logits.weight.detach().flatten(1).float(), self.bias.detach().float()
        return Table(search, "dot", self.codewords.detach().float(), bias)

    @torch.no_grad()
    def with_table(self, i: int, table: Table) -> "GumbelQuantizer":
        if table.metric != "dot":
            raise ValueError("a GumbelQuantizer searches by inner products")
        (size, dim), input_dim = table.values.shape, table.search.shape[1]
        with torch.random.fork_rng(devices=[]):
            head = GumbelQuantizer(size, dim, input_dim).to(table.values.device).eval().requires_grad_(False)
        head.codewords.copy_(table.values)
        head.logits.weight.copy_(table.search[:, :, None, None])
        head.bias.copy_(torch.zeros(size) if table.bias is None else table.bias)
        return head

    def advice(self) -> list[str]:
        return ["a larger quantizer.loss_weights.kl", "a higher quantizer.temperature", *super().advice()]


class GradientOfMixture(torch.autograd.Function):
    """Zeros (m, d) with the gradient of ``soft @ codewords`` to ``soft`` (m, n), without that product."""

    @staticmethod
    def forward(ctx, soft: Tensor, codewords: Tensor) -> Tensor:
        ctx.save_for_backward(codewords)
        return soft.new_zeros(len(soft), codewords.shape[1])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.saved_tensors[0].T, None


def gumbel_noise(logits: Tensor) -> Tensor:
    """Noise of the shape of the logits, from the standard Gumbel distribution.

    ``-log(e)`` of an exponential e, which is ``-log(1 - u)`` of a uniform u of 31 bits: the largest noise decides, and
    its u is near 0, where float32 is precise. This is four times as fast as ``exponential_``.
    """
    bits = torch.empty(logits.shape, dtype=torch.int32, device=logits.device).random_()
    return bits.to(logits.dtype).add_(0.5).mul_(-(2.0**-31)).log1p_().neg_().log_().neg_()
