"""Factorized quantization: k sub-codebooks side by side (FQGAN, arXiv:2411.16681)."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers import base
from vistok.quantizers.base import Context, Quantized, Quantizer


class FactorizedQuantizer(Quantizer):
    """Each head quantizes its own slice of the channels, independently of the others.

    A loss term is the sum of the heads' terms of that name. ``disentanglement`` (section 3.3) is low where the
    sub-latents of a position are orthogonal: the mean over positions and pairs of heads of the squared cosine.

    Args:
        heads: The sub-quantizers, each of any kind, over their own ``dim`` channels in this order.
        disentangle: Whether to add the ``disentanglement`` term; the heads must then agree in ``dim``.
    """

    def __init__(self, heads: Sequence[Quantizer], disentangle: bool = True):
        super().__init__()
        if not heads:
            raise ValueError("heads is empty: a factorized quantizer needs at least one")
        dims = [head.dim for head in heads]
        disentangle = disentangle and len(dims) > 1
        if disentangle and len(set(dims)) > 1:
            raise ValueError(f"disentangle=True compares sub-latents, but the heads' dims are {dims}")
        self.heads, self.disentangle = nn.ModuleList(heads), disentangle
        self.dim = sum(dims)
        self.codebook_sizes = tuple(size for head in heads for size in head.codebook_sizes)
        names = [name for head in heads for name in head.loss_names]
        self.loss_names = (*dict.fromkeys(names), *(["disentanglement"] if disentangle else []))

    def split(self, latent: Tensor) -> tuple[Tensor, ...]:
        """A latent (b, d, h, w), quantized or not, to the part of each head (b, head.dim, h, w)."""
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
        latent = torch.cat([part.latent for part in parts], dim=1)
        return Quantized(latent, torch.cat([part.codes for part in parts], dim=1), losses, stats=stats or None)

    @property
    def _heads(self) -> Sequence[Quantizer]:
        return cast(Sequence[Quantizer], self.heads)

    def lookup(self, codes: Tensor) -> Tensor:
        codes = base.check_codes(codes, self.codebook_sizes)
        parts = codes.split([len(head.codebook_sizes) for head in self._heads], dim=1)
        return torch.cat([head.lookup(part) for head, part in zip(self._heads, parts, strict=True)], dim=1)

    def update(self, stats: dict[str, Tensor]) -> dict[str, Tensor]:
        moved = {}
        for i, head in enumerate(self._heads):
            own = {name.removeprefix(f"{i}."): value for name, value in stats.items() if name.startswith(f"{i}.")}
            moved |= {f"heads.{i}.{name}": rows for name, rows in head.update(own).items()}
        return moved

    def fold(self) -> Quantizer:
        raise ValueError(
            f"a product of {len(self.codebook_sizes)} codebooks is no single table; for_inference() folds each of them"
        )

    def for_inference(self) -> "FactorizedQuantizer":
        return FactorizedQuantizer([head.for_inference() for head in self._heads], self.disentangle).eval()


def factorized(
    head: Callable[..., Quantizer], num_codebooks: int, dim: int, disentangle: bool = True
) -> FactorizedQuantizer:
    """A factorized quantizer of equal heads.

    Args:
        head: Makes a sub-quantizer when called with its ``dim``.
        num_codebooks: How many, k.
        dim: Channels d of the whole latent; each head gets d / k.
        disentangle: Whether to add the ``disentanglement`` term.
    """
    if num_codebooks < 1 or dim % num_codebooks:
        raise ValueError(f"num_codebooks={num_codebooks} does not divide the latent's {dim} channels")
    return FactorizedQuantizer([head(dim=dim // num_codebooks) for _ in range(num_codebooks)], disentangle)


def disentanglement(latents: Sequence[Tensor]) -> Tensor:
    """The mean over positions and pairs of the squared cosine between sub-latents (arXiv:2411.16681, section 3.3).

    Args:
        latents: At least two of (b, d, h, w).
    """
    unit = [F.normalize(latent.float(), dim=1) for latent in latents]
    pairs = [(a * b).sum(1).square().mean() for a, b in combinations(unit, 2)]
    return torch.stack(pairs).mean()
