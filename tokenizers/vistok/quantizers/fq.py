"""Factorized quantization: k sub-codebooks side by side (FQGAN, arXiv:2411.16681)."""

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers import base
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer, Table


class FactorizedQuantizer(Quantizer):
    """Quantizes each slice of the channels with its own head, independently of the others.

    A loss term is the sum of the heads' terms of that name. ``disentanglement`` (section 3.3) is low where the
    sub-latents of a position are orthogonal: the mean over positions and pairs of heads of the squared cosine.

    Args:
        heads: Sub-quantizers of any kind, in order; each quantizes its own ``dim`` channels.
        disentangle: True adds the ``disentanglement`` term; the heads must then have equal ``dim``.
    """

    def __init__(self, heads: Sequence[Quantizer], disentangle: bool = True):
        super().__init__()
        if not heads:
            raise ValueError("heads is empty: a factorized quantizer needs at least one")
        for head in heads:
            if head.layout(*head.example_grid).granularities > 1:
                raise ValueError(
                    f"a {type(head).__name__} cannot be one of several heads: they would choose different "
                    "granularities for a region; put the factorized head into it instead"
                )
        dims = [head.dim for head in heads]
        disentangle = disentangle and len(dims) > 1
        if disentangle and len(set(dims)) > 1:
            raise ValueError(f"disentangle=True compares sub-latents, but the heads' dims are {dims}")
        self.heads, self.disentangle = nn.ModuleList(heads), disentangle
        self.dim = sum(dims)
        self.codebook_sizes = tuple(size for head in heads for size in head.codebook_sizes)
        names = [name for head in heads for name in head.loss_names]
        self.loss_names = (*dict.fromkeys(names), *(["disentanglement"] if disentangle else []))
        self.context_fields = frozenset().union(*(head.context_fields for head in heads))
        self.grid_multiple = math.lcm(*(head.grid_multiple for head in heads))
        self.summed = any(head.summed for head in heads)
        self.fixed_grid = next((head.fixed_grid for head in heads if head.fixed_grid), None)

    def split(self, latent: Tensor) -> tuple[Tensor, ...]:
        """Splits a latent (b, d, h, w), quantized or not, into the parts of the heads (b, head.dim, h, w)."""
        return latent.split([head.dim for head in self.heads], dim=1)

    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        parts = [head(part, context) for head, part in zip(self.heads, self.split(z), strict=True)]
        losses: dict[str, Tensor] = {}
        for part in parts:
            for name, term in part.losses.items():
                losses[name] = losses[name] + term if name in losses else term
        if self.disentangle:
            losses["disentanglement"] = disentanglement([part.latent for part in parts])
        stats = {f"{i}.{name}": value for i, part in enumerate(parts) for name, value in (part.stats or {}).items()}
        codewords = [part.codewords for part in parts if part.codewords is not None]
        return Quantized(
            torch.cat([part.latent for part in parts], dim=1),
            torch.cat([part.codes for part in parts], dim=1),
            losses,
            stats=stats or None,
            codewords=torch.cat(codewords, dim=1) if len(codewords) == len(parts) else None,
        )

    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        parts = [head.encode(part, context).codes for head, part in zip(self._heads, self.split(z), strict=True)]
        return Codes(torch.cat(parts, dim=1))

    @property
    def _heads(self) -> Sequence[Quantizer]:
        return cast(Sequence[Quantizer], self.heads)

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        codes = base.check_codes(codes, self.codebook_sizes)
        looked_up = [head.lookup(own, layout) for head, own in zip(self._heads, self._codes(codes), strict=True)]
        return torch.cat(looked_up, dim=1)

    def partial(self, codes: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        parts = [head.partial(own, layout) for head, own in zip(self._heads, self._codes(codes), strict=True)]
        if len(set(map(len, parts))) > 1:  # heads of different depths
            return (self.lookup(codes, layout),)
        return tuple(torch.cat(own, dim=1) for own in zip(*parts, strict=True))

    def layout(self, h: int, w: int) -> Layout:
        first, *others = [head.layout(h, w).grids for head in self._heads]
        if any(own != first for own in others):
            raise ValueError(f"the heads of a latent of {h}x{w} have different scales: {[first, *others]}")
        return Layout(first, len(self.codebook_sizes))

    def compared(self, z: Tensor) -> Tensor:
        return torch.cat([head.compared(part) for head, part in zip(self._heads, self.split(z), strict=True)], dim=1)

    def near_ties(self, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        parts = zip(self._heads, self.split(z), self._codes(a), self._codes(b), strict=True)
        return torch.cat([head.near_ties(*own) for head, *own in parts], dim=1)

    def _codes(self, codes: Tensor) -> tuple[Tensor, ...]:
        """Splits codes (b, k, h, w) into those of the heads."""
        return codes.split([len(head.codebook_sizes) for head in self._heads], dim=1)

    def _owner(self, i: int) -> tuple[int, int]:
        """Index of the head that has the i-th codebook, and the codebook's index in it."""
        return [(n, own) for n, head in enumerate(self._heads) for own in range(len(head.codebook_sizes))][i]

    def owner(self, i: int) -> tuple[Quantizer, int]:
        owner, own = self._owner(i)
        return self._heads[owner].owner(own)

    def table(self, i: int) -> Table | None:
        owner, own = self._owner(i)
        return self._heads[owner].table(own)

    def with_table(self, i: int, table: Table) -> "FactorizedQuantizer":
        owner, own = self._owner(i)
        heads = [head.for_inference() for head in self._heads]
        heads[owner] = heads[owner].with_table(own, table)
        return FactorizedQuantizer(heads, self.disentangle).eval()

    def revive(self, i: int, rows: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        owner, own = self._owner(i)
        moved = self._heads[owner].revive(own, rows, vectors)
        return {f"heads.{owner}.{name}": value for name, value in moved.items()}

    def advice(self) -> list[str]:
        return list(dict.fromkeys(idea for head in self._heads for idea in head.advice()))

    def update(self, stats: dict[str, Tensor] | None) -> dict[str, Tensor]:
        moved = {}
        for i, head in enumerate(self._heads):
            own = {
                name.removeprefix(f"{i}."): value for name, value in (stats or {}).items() if name.startswith(f"{i}.")
            }
            moved |= {f"heads.{i}.{name}": rows for name, rows in head.update(own).items()}
        return moved

    def for_inference(self) -> "FactorizedQuantizer":
        return FactorizedQuantizer([head.for_inference() for head in self._heads], self.disentangle).eval()


def factorized(
    head: Callable[..., Quantizer], num_codebooks: int, dim: int, disentangle: bool = True
) -> FactorizedQuantizer:
    """Makes a factorized quantizer of equal heads.

    Args:
        head: Makes a sub-quantizer when called with its ``dim``.
        num_codebooks: Number of heads k.
        dim: Channels d of the whole latent; each head gets d / k.
        disentangle: True adds the ``disentanglement`` term.
    """
    if num_codebooks < 1 or dim % num_codebooks:
        raise ValueError(f"num_codebooks={num_codebooks} does not divide the latent's {dim} channels")
    try:
        inspect.signature(head).bind_partial(dim=dim)
    except TypeError as error:
        name = getattr(getattr(head, "func", head), "__name__", "head")
        raise ValueError(
            f"a {name} takes no dim: to have several side by side, make them and pass a list to FactorizedQuantizer"
        ) from error
    return FactorizedQuantizer([head(dim=dim // num_codebooks) for _ in range(num_codebooks)], disentangle)


def disentanglement(latents: Sequence[Tensor]) -> Tensor:
    """Mean over positions and pairs of the squared cosine between sub-latents (arXiv:2411.16681, section 3.3).

    Args:
        latents: At least two latents (b, d, h, w).
    """
    unit = [F.normalize(latent.float(), dim=1) for latent in latents]
    pairs = [(a * b).sum(1).square().mean() for a, b in combinations(unit, 2)]
    return torch.stack(pairs).mean()
