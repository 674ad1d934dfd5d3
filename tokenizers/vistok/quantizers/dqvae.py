"""Dynamic quantization: one code for a plain region, many for a busy one (DQ-VAE, arXiv:2305.11718)."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.distributed.collectives import mean_with_gradient
from vistok.quantizers import base
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer, Table
from vistok.quantizers.routers import EntropyRouter, FeatureRouter, spread

BUDGETS = ("plain", "doubled")


class DynamicQuantizer(Quantizer):
    """Each region of the coarsest of G grids gets codes of one grain, from 1 for the coarsest to 4^(G-1).

    Codes and latent are on the finest grid, with a coarse cell's code repeated over it; ``keep`` marks the first
    position of each cell, whose code is the token (``vistok.quantizers.sequences`` packs them). A cell of n positions
    weighs 1 / n at each in the losses and statistics, so that every token counts alike.

    The coarser maps come from a hierarchical encoder through ``context.maps``, coarsest first; those that it lacks are
    means of the coarsest it has, or of the latent, and those beyond G are left out. ``context.rate`` asks for a share
    of regions for the finer grains: (b,), or (b, G - 1) with more than two.

    Args:
        head: Quantizes the assembled latent; any head.
        router: Decides which grain a region gets (``vistok.quantizers.routers``); has ``grains``.
        rates: Adds the ``budget`` loss with these target shares of regions for grain 1, 2 and so on; None leaves it
            out, as for an entropy router.
        budget: ``plain``, or ``doubled`` as in the released code for two grains, which adds the same term twice.
        projection: From the channels of the maps to ``head.dim``, after the maps are assembled (the published model's
            quant_conv, which its router does not see); None where they agree.

    Raises:
        ValueError: Of ``forward``: the maps are not each half as large as the next, or a rate is not in [0, 1].
    """

    targets: Tensor  # (grains - 1,)

    def __init__(
        self,
        head: Quantizer,
        router: FeatureRouter | EntropyRouter,
        rates: Sequence[float] | None = None,
        budget: str = "plain",
        projection: nn.Conv2d | None = None,
    ):
        super().__init__()
        if budget not in BUDGETS:
            raise ValueError(f"budget must be one of {', '.join(BUDGETS)}, not {budget!r}")
        if rates is not None:
            if len(rates) != router.grains - 1:
                raise ValueError(f"rates={list(rates)} must be {router.grains - 1} shares for {router.grains} grains")
            check_rate(torch.tensor([list(rates)], device="cpu"), router.grains)
        if projection is not None and projection.out_channels != head.dim:
            raise ValueError(f"projection makes {projection.out_channels} channels, but head.dim is {head.dim}")
        self.head, self.router, self.projection = head, router, projection
        self.rates, self.budget = None if rates is None else list(rates), budget
        self.register_buffer("targets", None if rates is None else torch.tensor(list(rates)), persistent=False)
        self.dim = head.dim
        self.input_dim = head.dim if projection is None else projection.in_channels
        self.codebook_sizes = head.codebook_sizes
        self.loss_names = (*head.loss_names, *(["budget"] if rates is not None else []))
        reads = getattr(router, "context_fields", frozenset())
        self.context_fields = head.context_fields | reads | {"maps"}
        self.grid_multiple = 2 ** (router.grains - 1) * head.grid_multiple

    @property
    def grains(self) -> int:
        """G."""
        return self.router.grains

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        latent, gate, cell = self._assemble(z, context)
        weight = cell.float() ** -2
        if context.weight is not None:
            weight = weight * context.weight
        quantized = self.head(latent, context._replace(weight=weight))
        losses = dict(quantized.losses)
        if self.rates is not None:
            target = self.targets if context.rate is None else context.rate.to(gate).reshape(len(gate), -1)
            losses["budget"] = budget_loss(gate, target) * (2 if self.budget == "doubled" else 1)
        first = first_of_cell(cell)
        return quantized._replace(
            # Equal vectors may score differently in the last bit at other places of a matrix product.
            latent=pick(quantized.latent, first),
            codes=pick(quantized.codes, first),
            losses=losses,
            keep=is_first(first),
            codewords=None if quantized.codewords is None else pick(quantized.codewords, first),
        )

    @base.in_float32
    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        latent, _, cell = self._assemble(z, context)
        first = first_of_cell(cell)
        return Codes(pick(self.head.encode(latent, context).codes, first), is_first(first))

    def _assemble(self, z: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """The latent to quantize, the router's gate, and the side of the cell that each position is in, (b, h, w)."""
        if context.rate is not None and not (self.training and context.rate.is_cuda):  # a check waits for the GPU
            check_rate(context.rate, self.grains)
        maps = self._maps(z, context.maps)
        gate = self.router(maps, context)
        grain = gate.argmax(1, keepdim=True)
        coarsest = 2 ** (self.grains - 1)
        cell = spread(coarsest >> grain, coarsest)
        latent = maps[-1]
        for g, coarser in enumerate(maps[:-1]):
            side = coarsest >> g
            latent = torch.where(cell == side, spread(coarser, side), latent)
        if self.training:  # multiplies by 1, with the gradient that tells the router what its choice was worth
            latent = latent * spread(gate.gather(1, grain), coarsest)
        if self.projection is not None:
            latent = base.called_in_float32(self.projection, latent)
        return latent, gate, cell[:, 0]

    def _maps(self, z: Tensor, coarser: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """All maps, coarsest first."""
        steps = range(self.grains - 1, 0, -1)
        h, w = z.shape[-2:]
        if h % 2 ** (self.grains - 1) or w % 2 ** (self.grains - 1):
            raise ValueError(f"a latent of {h}x{w} has no regions of {2 ** (self.grains - 1)} positions a side")
        z = z.float()
        given = [] if coarser is None else [m.float() for m in coarser[1 - self.grains :]]
        coarsest = given[0] if given else z
        missing = self.grains - 1 - len(given)
        maps = [F.avg_pool2d(coarsest, 2**step) for step in range(missing, 0, -1)] + given
        shapes = [tuple(m.shape[-2:]) for m in maps]
        expected = [(h >> step, w >> step) for step in steps]
        if shapes != expected:
            raise ValueError(
                f"context.maps are of {shapes}, but {self.grains} grains beside a latent of {h}x{w} need {expected}"
            )
        return (*maps, z)

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        return self.head.lookup(codes)

    def layout(self, h: int, w: int) -> Layout:
        return Layout(((h, w),), len(self.codebook_sizes), self.grains)

    def update(self, stats: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._named(self.head.update(stats))

    def table(self, i: int) -> Table | None:
        return self.head.table(i)

    def near_ties(self, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.zeros_like(a, dtype=torch.bool)  # what is quantized is not z

    def revive(self, i: int, rows: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        return self._named(self.head.revive(i, rows, vectors))

    def _named(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"head.{name}": own for name, own in rows.items()}

    def advice(self) -> list[str]:
        return self.head.advice()

    def for_inference(self) -> "DynamicQuantizer":
        router, projection = copy.deepcopy((self.router, self.projection))
        return DynamicQuantizer(self.head.for_inference(), router, self.rates, self.budget, projection).eval()


def budget_loss(gate: Tensor, rates: Tensor) -> Tensor:
    """The squared differences between the shares of regions that each finer grain has and should have, summed.

    The share of grain g is ``(β - P) / ((4^g - 1) P)`` with P regions, and β the codes of an image if those of grain g
    counted 4^g and all others 1 (DQ-VAE's code: equal to the mean of the gate, but its gradient also reaches the other
    grains' gates).

    Args:
        gate: (b, G, h, w), grains coarsest first, adding up to 1.
        rates: Target shares of grains 1 to G - 1: (G - 1,) for the mean over the batch of all ranks, (b, G - 1) for
            each image.
    """
    _, grains, h, w = gate.shape
    regions = h * w
    all_grains = gate.sum((1, 2, 3))
    shares = []
    for g in range(1, grains):
        extra = 4**g - 1
        shares.append((all_grains + extra * gate[:, g].sum((1, 2)) - regions) / (extra * regions))
    share = torch.stack(shares, dim=1)  # (b, G - 1)
    if rates.ndim == 1:
        share = mean_with_gradient(share.mean(0, keepdim=True))
    return (share - rates).square().sum(1).mean()


def check_rate(rate: Tensor, grains: int) -> None:
    """Refuse target shares (b,) or (b, G - 1) that are not shares."""
    shares = rate.reshape(len(rate), -1)
    if shares.shape[1] != grains - 1:
        raise ValueError(f"rate has the shape {tuple(rate.shape)}, but {grains} grains need (b, {grains - 1})")
    if not bool(((shares >= 0) & (shares <= 1)).all()) or bool((shares.sum(1) > 1).any()):
        raise ValueError(f"rate={rate.tolist()} must be shares in [0, 1], of a sum of at most 1 for each image")


def first_of_cell(cell: Tensor) -> Tensor:
    """For positions in square cells of side (b, h, w): the raster index of each cell's first position, same shape."""
    _, h, w = cell.shape
    y = torch.arange(h, device=cell.device)[:, None]
    x = torch.arange(w, device=cell.device)
    return (y - y % cell) * w + (x - x % cell)


def is_first(first: Tensor) -> Tensor:
    """Which positions are their own cell's first one, of the indices (b, h, w) of first positions: bool."""
    return first == torch.arange(first[0].numel(), device=first.device).view_as(first[0])


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Values (b, c, h, w) at the raster indices (b, h, w), for every channel."""
    return values.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, values.shape[1], -1)).view_as(values)
