"""Dynamic quantization: one code for a plain region, many for a detailed one (DQ-VAE, arXiv:2305.11718)."""

import copy
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.distributed.collectives import mean_with_gradient
from vistok.quantizers import base
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer, Table
from vistok.quantizers.routers import EntropyRouter, FeatureRouter, spread

BUDGETS = ("plain", "doubled")


class DynamicQuantizer(Quantizer):
    """Quantizes each region of the coarsest of G grids at one of G granularities: with 1 code, 4, and so on.

    Codes and latent are on the finest grid, where a coarse cell's code is repeated; ``keep`` marks the first position
    of each cell, whose code is the token (``vistok.quantizers.sequences`` packs them). The finest granularity has
    4^(G-1) codes for a region. In a cell of n positions each has the weight 1 / n in losses and statistics, so that all
    tokens count equally.

    The coarser maps come from a hierarchical encoder through ``context.maps``, coarsest first. Missing maps are means
    of the coarsest one given, or of the latent; maps beyond G are ignored. ``context.rate`` sets the share of regions
    with finer granularities: (b,), or (b, G - 1) for more than two.

    Args:
        head: Head that quantizes the assembled latent.
        router: Router that chooses the granularity of each region (``vistok.quantizers.routers``); its ``grains`` is G.
        rates: Target shares of regions with granularity 1, 2 and so on, for the ``budget`` loss; None has no such loss,
            as for an entropy router.
        budget: ``plain``, or ``doubled`` as in the released code for two granularities, which adds the same term twice.
        rate_weights: Weights of the terms of ``budget``, one for each of ``rates``; None for 1. The released code for
            three granularities can weight the last one.
        projection: Convolution from the channels of the maps to ``head.dim``, applied after the maps are assembled (the
            published model's quant_conv, which its router does not read); None where the channels agree.

    Raises:
        ValueError: In ``forward``: a map is not half as large as the next one, or a rate is not in [0, 1].
    """

    targets: Tensor  # (grains - 1,)

    def __init__(
        self,
        head: Quantizer,
        router: FeatureRouter | EntropyRouter,
        rates: Sequence[float] | None = None,
        budget: Literal["plain", "doubled"] = "plain",
        projection: nn.Conv2d | None = None,
        rate_weights: Sequence[float] | None = None,
    ):
        super().__init__()
        if budget not in BUDGETS:
            raise ValueError(f"budget must be one of {', '.join(BUDGETS)}, not {budget!r}")
        if rates is not None:
            if len(rates) != router.grains - 1:
                raise ValueError(
                    f"rates={list(rates)} must be {router.grains - 1} shares for {router.grains} granularities"
                )
            check_rate(torch.tensor([list(rates)], device="cpu"), router.grains)
        if rate_weights is not None and len(rate_weights) != len(rates or ()):
            raise ValueError(f"rate_weights={list(rate_weights)} must be one number for each of rates={rates}")
        if projection is not None and projection.out_channels != head.dim:
            raise ValueError(f"projection makes {projection.out_channels} channels, but head.dim is {head.dim}")
        if len(head.layout(*head.example_grid).grids) > 1:
            raise ValueError(
                f"a {type(head).__name__} cannot be the head of a dynamic quantizer: its codes are maps of several "
                "scales, not one grid whose regions have granularities"
            )
        self.head, self.router, self.projection = head, router, projection
        self.rates = None if rates is None else list(rates)
        self.rate_weights = None if rate_weights is None else list(rate_weights)
        self.budget: Literal["plain", "doubled"] = budget
        self.register_buffer("targets", None if rates is None else torch.tensor(list(rates)), persistent=False)
        self.dim = head.dim
        self.input_dim = head.dim if projection is None else projection.in_channels
        self.codebook_sizes, self.summed = head.codebook_sizes, head.summed
        self.loss_names = (*head.loss_names, *(["budget"] if rates is not None else []))
        reads = getattr(router, "context_fields", frozenset())
        self.context_fields = head.context_fields | reads | {"maps"}
        self.grid_multiple = 2 ** (router.grains - 1) * head.grid_multiple

    @property
    def grains(self) -> int:
        """Number of granularities G."""
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
            losses["budget"] = budget_loss(gate, target, self.rate_weights) * (2 if self.budget == "doubled" else 1)
        first = first_of_cell(cell)
        return quantized._replace(
            # Scores of equal vectors may differ in the last bit between rows of a matrix product.
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
        """Assembled latent, the router's gate, and the side of the cell of each position, (b, h, w)."""
        if context.rate is not None and not (self.training and context.rate.is_cuda):  # it would wait for the GPU
            check_rate(context.rate, self.grains)
        maps = self._maps(z, context.maps)
        gate = self.router(maps, context)
        granularity = gate.argmax(1, keepdim=True)
        coarsest = 2 ** (self.grains - 1)
        cell = spread(coarsest >> granularity, coarsest)
        latent = maps[-1]
        for g, coarser in enumerate(maps[:-1]):
            side = coarsest >> g
            latent = torch.where(cell == side, spread(coarser, side), latent)
        if self.training:  # multiplies by 1, with the gradient that trains the router
            latent = latent * spread(gate.gather(1, granularity), coarsest)
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
                f"context.maps have the sizes {shapes}, but {self.grains} granularities of a latent of {h}x{w} need "
                f"{expected}"
            )
        return (*maps, z)

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        return self.head.lookup(codes)

    def partial(self, codes: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        return self.head.partial(codes, layout)

    def layout(self, h: int, w: int) -> Layout:
        return Layout(((h, w),), len(self.codebook_sizes), self.grains)

    def owner(self, i: int) -> tuple[Quantizer, int]:
        return self.head.owner(i)

    def update(self, stats: dict[str, Tensor] | None) -> dict[str, Tensor]:
        return self._named(self.head.update(stats))

    def table(self, i: int) -> Table | None:
        return self.head.table(i)

    def near_ties(self, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.zeros_like(a, dtype=torch.bool)  # the head quantizes the assembled latent, not z

    def revive(self, i: int, rows: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        return self._named(self.head.revive(i, rows, vectors))

    def _named(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"head.{name}": own for name, own in rows.items()}

    def advice(self) -> list[str]:
        return self.head.advice()

    def for_inference(self) -> "DynamicQuantizer":
        router, projection = copy.deepcopy((self.router, self.projection))
        return DynamicQuantizer(
            self.head.for_inference(), router, self.rates, self.budget, projection, self.rate_weights
        ).eval()


def budget_loss(gate: Tensor, rates: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Sum over finer granularities of the squared difference between their share of regions and its target.

    The share of granularity g is ``(β - P) / ((4^g - 1) P)`` with P regions, where β would be the number of codes if
    regions of granularity g had 4^g codes and all others 1. As in DQ-VAE's code it equals the mean of the gate, but its
    gradient also reaches the gates of other granularities.

    Args:
        gate: (b, G, h, w), granularities coarsest first, with a sum of 1.
        rates: Target shares of granularities 1 to G - 1: (G - 1,) for the mean over the batch of all ranks, (b, G - 1)
            for each image.
        weights: (G - 1,) weights of the squared differences; None for 1.
    """
    _, grains, h, w = gate.shape
    regions = h * w
    all_granularities = gate.sum((1, 2, 3))
    shares = []
    for g in range(1, grains):
        extra = 4**g - 1
        shares.append((all_granularities + extra * gate[:, g].sum((1, 2)) - regions) / (extra * regions))
    share = torch.stack(shares, dim=1)  # (b, G - 1)
    if rates.ndim == 1:
        share = mean_with_gradient(share.mean(0, keepdim=True))
    squares = (share - rates).square()
    return (squares if weights is None else squares * squares.new_tensor(weights)).sum(1).mean()


def check_rate(rate: Tensor, grains: int) -> None:
    """Refuses target shares (b,) or (b, G - 1) outside [0, 1], or with a sum above 1."""
    shares = rate.reshape(len(rate), -1)
    if shares.shape[1] != grains - 1:
        raise ValueError(f"rate has the shape {tuple(rate.shape)}, but {grains} granularities need (b, {grains - 1})")
    if not bool(((shares >= 0) & (shares <= 1)).all()) or bool((shares.sum(1) > 1).any()):
        raise ValueError(f"rate={rate.tolist()} must be shares in [0, 1] with a sum of at most 1 for each image")


def first_of_cell(cell: Tensor) -> Tensor:
    """Raster index of the first position in each position's cell, from the cells' sides (b, h, w): same shape."""
    _, h, w = cell.shape
    y = torch.arange(h, device=cell.device)[:, None]
    x = torch.arange(w, device=cell.device)
    return (y - y % cell) * w + (x - x % cell)


def is_first(first: Tensor) -> Tensor:
    """Positions that are the first of their cell, from the indices (b, h, w) of first positions: bool."""
    return first == torch.arange(first[0].numel(), device=first.device).view_as(first[0])


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Values (b, c, h, w) at the raster indices (b, h, w), for every channel."""
    return values.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, values.shape[1], -1)).view_as(values)
