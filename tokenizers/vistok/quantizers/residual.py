"""Residual quantization: each depth quantizes what those before it have left over (RQ-VAE, arXiv:2203.01941)."""

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal, cast

import torch
from torch import Tensor, nn

from vistok.quantizers.base import Layout, Quantizer, Table
from vistok.quantizers.estimators import Estimator, StraightThrough
from vistok.quantizers.summed import Estimate, Passed, Summand, SummedQuantizer, scaled


class ResidualQuantizer(SummedQuantizer):
    """Sums the codewords of D depths, over heads of any kind (section 3.1).

    A position has D codes, coarse to fine, or D times k for heads of k codebooks; ``lookup`` accepts the codes of the
    first depths alone. ``losses="sums"`` is RQ-VAE's Eq. 7: the latent is compared with the sum after each depth, so
    that each is a reconstruction. ``losses="steps"`` with ``residual_gradient="codewords"`` is the residual mode of
    enhancing-transformers' ViT-VQGAN.

    RQ-VAE's code refreshes a shared codebook of moving averages after every depth of a forward, so that the next depth
    already searches the new one. Here all depths of a forward search the same codebook, and ``update`` learns from
    their summed statistics once. Codes in evaluation, those of the first depth in training, and the statistics of each
    depth are the same; codes of later depths in training, and the decay (once instead of D times an update), are not.

    Args:
        heads: One head for each depth, or a single one, alone or in a list, for all depths: a shared codebook.
        depth: Number of depths D; None for the number of heads.
        losses: ``sums`` or ``steps``, see ``SummedQuantizer``.
        estimator: Gradient estimator of the sum.
        estimate: ``sum``, ``steps`` or ``heads``.
        residual_gradient: ``latent``, ``codewords``, ``both`` or ``none``.
        factors: Factor of the codewords of each depth, D numbers; a number r stands for 1, r, r², .... Heads whose
            codewords have a fixed size, such as FSQ, need smaller ones from depth to depth.
        dropout: ``batch`` or ``sample`` decodes a random number of depths in training, so that every number of them is
            a reconstruction (SoundStream, arXiv:2107.03312, section 3.4: a number for each sample); None always all.
    """

    def __init__(
        self,
        heads: Quantizer | Sequence[Quantizer],
        depth: int | None = None,
        losses: Literal["sums", "steps"] = "sums",
        estimator: Estimator = StraightThrough(),
        estimate: Estimate = "sum",
        residual_gradient: Passed = "latent",
        factors: float | Sequence[float] = 1.0,
        dropout: Literal["batch", "sample"] | None = None,
    ):
        heads = [heads] if isinstance(heads, Quantizer) else list(heads)
        if not heads:
            raise ValueError("heads is empty: a residual quantizer needs at least one")
        depth = len(heads) if depth is None else depth
        if depth < 1 or len(heads) not in (1, depth):
            raise ValueError(
                f"depth={depth} needs {max(depth, 1)} heads, or a single one for all depths, not {len(heads)}"
            )
        if len(set(map(id, heads))) < len(heads):
            raise ValueError(f"heads has the same head twice: a single one with depth={depth} shares its codebook")
        if not isinstance(factors, float | int) and len(factors) != depth:
            raise ValueError(f"factors={list(factors)} must be {depth} numbers, one for each depth")
        named = {f"heads.{i}": head for i, head in enumerate(heads)}
        super().__init__(named, losses, estimator, estimate, residual_gradient, factors, dropout)
        self.heads, self.depth = nn.ModuleList(heads), depth
        self.codebook_sizes = tuple(size for i in range(depth) for size in self._head(i).codebook_sizes)
        self.grid_multiple = math.lcm(*(head.grid_multiple for head in heads))
        self.fixed_grid = next((head.fixed_grid for head in heads if head.fixed_grid), None)

    def _head(self, depth: int) -> Quantizer:
        return cast(Quantizer, self.heads[min(depth, len(self.heads) - 1)])

    def steps(self, h: int, w: int) -> list[Summand]:
        names = [f"heads.{min(i, len(self.heads) - 1)}" for i in range(self.depth)]
        return [Summand(name, self._head(i), (h, w), self.factor(i), i, self.depth) for i, name in enumerate(names)]

    def layout(self, h: int, w: int) -> Layout:
        first, *others = [head.layout(h, w).grids for head in cast(Sequence[Quantizer], self.heads)]
        if any(own != first for own in others):
            raise ValueError(f"the depths of a latent of {h}x{w} have different scales: {[first, *others]}")
        return Layout(first, len(self.codebook_sizes))

    def split(self, codes: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        each = [len(self._head(i).codebook_sizes) for i in range(self.depth)]
        return codes.split(each[: list(accumulate(each)).index(codes.shape[1]) + 1], dim=1)

    def join(self, codes: Sequence[Tensor], layout: Layout) -> Tensor:
        return torch.cat(list(codes), dim=1)

    def _sizes_of(self, codes: Tensor) -> tuple[int, ...]:
        """Sizes of the codebooks of the first depths, where codes (b, k, *positions) end with one."""
        sizes: list[int] = []
        for i in range(self.depth):
            sizes += self._head(i).codebook_sizes
            if codes.ndim > 1 and len(sizes) == codes.shape[1]:
                return tuple(sizes)
        return self.codebook_sizes

    def _place(self, i: int) -> tuple[int, int]:
        """Depth of the i-th codebook, and the codebook's index in its head."""
        return [(depth, own) for depth in range(self.depth) for own in range(len(self._head(depth).codebook_sizes))][i]

    def owner(self, i: int) -> tuple[Quantizer, int]:
        depth, own = self._place(i)
        return self._head(depth).owner(own)

    def table(self, i: int) -> Table | None:
        depth, own = self._place(i)
        return scaled(self._head(depth).table(own), self.factor(depth))

    def with_table(self, i: int, table: Table) -> "ResidualQuantizer":
        """Head for inference with another codebook at one depth; the depths of the result share none."""
        depth, own = self._place(i)
        heads = [self._head(number).for_inference() for number in range(self.depth)]
        heads[depth] = heads[depth].with_table(own, cast(Table, scaled(table, 1 / self.factor(depth))))
        return self._with(heads)

    def revive(self, i: int, rows: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        depth, own = self._place(i)
        return self._named(f"heads.{min(depth, len(self.heads) - 1)}", self._head(depth).revive(own, rows, vectors))

    def for_inference(self) -> "ResidualQuantizer":
        return self._with([head.for_inference() for head in cast(Sequence[Quantizer], self.heads)])

    def _with(self, heads: Sequence[Quantizer]) -> "ResidualQuantizer":
        arguments = (self.losses, self.estimator, self.estimate, self.residual_gradient, self.factors, self.dropout)
        return ResidualQuantizer(heads, self.depth, *arguments).eval()


def in_depths(
    head: Callable[..., Quantizer],
    depth: int,
    dim: int,
    shared: bool = True,
    losses: Literal["sums", "steps"] = "sums",
    estimator: Estimator = StraightThrough(),
    estimate: Estimate = "sum",
    residual_gradient: Passed = "latent",
    factors: float | Sequence[float] = 1.0,
    dropout: Literal["batch", "sample"] | None = None,
) -> ResidualQuantizer:
    """Makes a residual quantizer of equal heads; arguments not listed are those of ``ResidualQuantizer``.

    Args:
        head: Makes a head when called with its ``dim``, or without arguments if it takes none of that name.
        depth: Number of depths D.
        dim: Channels d of the latent.
        shared: True gives all depths one head, with one codebook; False gives each its own.
    """
    takes_dim = "dim" in inspect.signature(head).parameters
    if not takes_dim and not shared:
        raise ValueError("shared=False needs heads that do not share their parts: use ResidualQuantizer with a list")
    heads = [head(dim=dim) if takes_dim else head() for _ in range(1 if shared else depth)]
    return ResidualQuantizer(heads, depth, losses, estimator, estimate, residual_gradient, factors, dropout)
