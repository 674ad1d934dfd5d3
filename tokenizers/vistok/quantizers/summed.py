"""Base of heads that quantize in steps, each of which quantizes what the sum of those before it has left over."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.quantizers import base, code_statistics
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer, Table
from vistok.quantizers.estimators import Estimator, StraightThrough
from vistok.quantizers.mapped import computed_once

Estimate = Literal["sum", "steps", "heads"]
Passed = Literal["latent", "codewords", "both", "none"]
CHOICES = {
    "losses": ("sums", "steps"),
    "estimate": ("sum", "steps", "heads"),
    "residual_gradient": ("latent", "codewords", "both", "none"),
    "dropout": ("batch", "sample", None),
}


class Summand(NamedTuple):
    """One step: what is added to the sum."""

    name: str  # of the step's head, as a submodule
    head: Quantizer
    grid: tuple[int, int]  # (h, w) of the map that it quantizes
    factor: float  # of its codewords
    number: int  # from 0
    of: int  # number of steps


class SummedQuantizer(Quantizer):
    """Head whose latent is the sum of the codewords of several steps; the steps may share heads.

    A step divides the residual by its factor, takes its mean over the cells of a coarser grid if it has one, quantizes
    it, and enlarges the codewords again. All steps search the codebooks as they were before the forward; statistics of
    steps with one head are summed, and ``update`` learns from them once.

    A subclass defines ``steps``, ``split``, ``join`` and ``layout``, and passes the arguments on.

    Args:
        heads: The heads of all steps, by name of the submodule.
        losses: ``sums`` compares the latent with the sum after each step in the terms ``commitment`` and ``codebook``;
            ``steps`` takes the heads' own terms. Either way a term is the mean over steps.
        estimator: Gradient estimator.
        estimate: ``sum`` applies the estimator once, to the latent and the sum of the codewords; ``steps`` at each
            step, to the head's input and its codewords, so that the latent gets a gradient from each; ``heads`` adds
            the heads' own latents, for those whose gradients are special, such as Gumbel-softmax.
        residual_gradient: Where gradients of a step's input go: to the ``latent``, to the ``codewords`` that were
            subtracted from it, to ``both`` or to ``none``.
        factors: Factor of the codewords of each step; a number r stands for 1, r, r², ....
        dropout: In training the latent has the sum of the first n steps, n uniform from 1 to their number: one n for a
            ``batch`` or one for each ``sample``. Codes, losses and statistics are those of all steps. None has none.
    """

    summed = True

    def __init__(
        self,
        heads: dict[str, Quantizer],
        losses: Literal["sums", "steps"],
        estimator: Estimator,
        estimate: Estimate,
        residual_gradient: Passed,
        factors: float | Sequence[float],
        dropout: Literal["batch", "sample"] | None,
    ):
        super().__init__()
        self.losses: Literal["sums", "steps"] = losses
        self.estimator: Estimator = estimator
        self.estimate: Estimate = estimate
        self.residual_gradient: Passed = residual_gradient
        self.dropout: Literal["batch", "sample"] | None = dropout
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join("null" if choice is None else choice for choice in choices)
                raise ValueError(f"{name} must be one of {known}, not {getattr(self, name)!r}")
        if estimate != "sum" and residual_gradient in ("codewords", "none"):
            raise ValueError(
                f"residual_gradient={residual_gradient!r} with estimate={estimate!r} leaves the latent no gradient"
            )
        self.factors = factors if isinstance(factors, float | int) else list(factors)
        if any(factor <= 0 for factor in ([self.factors] if isinstance(self.factors, float | int) else self.factors)):
            raise ValueError(f"factors={self.factors} must be above 0")
        self._check(heads)
        self.head_names = tuple(heads)
        self.dim = next(iter(heads.values())).dim
        self.loss_names = tuple(dict.fromkeys(name for head in heads.values() for name in head.loss_names))
        self.context_fields = frozenset().union(*(head.context_fields for head in heads.values()))
        parts = [part for head in heads.values() for part in head.modules() if isinstance(part, Quantizer)]
        self.forwards = None if all(part.forwards is None for part in parts) else 0
        for head in heads.values():
            head.expect_updates()  # each is called several times in a forward, so this head warns in their place

    def _check(self, heads: dict[str, Quantizer]) -> None:
        own = type(self).__name__
        for head in heads.values():
            name = type(head).__name__
            if head.layout(*head.example_grid).granularities > 1:
                raise ValueError(
                    f"a {name} cannot be a step of a {own}: the steps would choose different granularities for a region"
                )
            if head.input_dim not in (None, head.dim):
                raise ValueError(f"a {name} of {head.input_dim} to {head.dim} channels leaves no residual for a {own}")
        if len(dims := {head.dim for head in heads.values()}) > 1:
            raise ValueError(f"the heads of a {own} are added, but their dims are {sorted(dims)}")

    @abstractmethod
    def steps(self, h: int, w: int) -> list[Summand]:
        """Steps for a latent with grid (h, w)."""

    @abstractmethod
    def split(self, codes: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        """Splits codes, or those of the first steps, into those of each step as its head has them."""

    @abstractmethod
    def join(self, codes: Sequence[Tensor], layout: Layout) -> Tensor:
        """Joins the codes of all steps to codes (b, k, *positions)."""

    def layout_of(self, codes: Tensor) -> Layout:
        """Layout of codes (b, k, *positions) that come without one.

        Raises:
            ValueError: Their positions do not determine the grid.
        """
        layout = self.layout(*(self.fixed_grid or codes.shape[2:]))
        if self.fixed_grid is None and layout.positions != tuple(codes.shape[2:]):
            raise ValueError(
                f"codes of the shape {tuple(codes.shape)} do not determine the grid of the latent: a "
                f"{type(self).__name__} with codes of several scales needs their layout, a tokenizer the images' size"
            )
        return layout

    def enlarged(self, codewords: Tensor, step: Summand, grid: tuple[int, int]) -> Tensor:
        """Codewords of a step on the latent's grid (h, w)."""
        return codewords if step.factor == 1 else codewords * step.factor

    def factor(self, number: int) -> float:
        """Factor of the codewords of a step."""
        return self.factors**number if isinstance(self.factors, float | int) else self.factors[number]

    def _input(self, residual: Tensor, step: Summand) -> Tensor:
        residual = residual if residual.shape[2:] == step.grid else F.adaptive_avg_pool2d(residual, step.grid)
        return residual if step.factor == 1 else residual / step.factor

    def _residual(self, z: Tensor, total: Tensor) -> Tensor:
        to_latent, to_codewords = (self.residual_gradient in (own, "both") for own in ("latent", "codewords"))
        return (z if to_latent else z.detach()) - (total if to_codewords else total.detach())

    def _context(self, context: Context, step: Summand) -> Context:
        if context.weight is None or context.weight.shape[1:] == step.grid:
            return context
        return context._replace(weight=F.adaptive_avg_pool2d(context.weight[:, None], step.grid)[:, 0])

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        if self.training:
            base.warn_if_never_updated(self)
        z, grid = z.float(), (z.shape[2], z.shape[3])
        steps, estimator = self.steps(*grid), self.estimator if self.training else StraightThrough()
        kept = self._kept(len(steps), z)
        parts, sums, added = [], [], []
        total = passed = torch.zeros_like(z)  # the sum of the codewords, and that of the estimates
        with computed_once(self):
            for step in steps:
                own = self._input(self._residual(z, passed), step)
                part = step.head(own, self._context(context, step))
                codewords = self._codewords(step, part)
                added.append(self.enlarged(codewords, step, grid))
                total = total + added[-1]
                if self.estimate == "sum":
                    passed = total
                else:
                    heads_own = self.estimate == "heads"
                    latent = part.latent if heads_own else estimator(step.head.compared(own), codewords)
                    added[-1] = self.enlarged(latent, step, grid)
                    passed = passed + added[-1]
                parts.append(part)
                sums.append(total)
            if kept is not None:
                passed = cast(Tensor, sum(keep * own for keep, own in zip(kept, added, strict=True)))
        codes = self.join([part.codes for part in parts], self.layout(*grid))
        losses, stats = self._losses(z, parts, sums, context.weight), self._stats(steps, parts)
        if self.estimate != "sum":
            return Quantized(passed, codes, losses, stats=stats, codewords=total if kept is None else passed.detach())
        return Quantized(estimator(z, passed), codes, losses, stats=stats, codewords=passed)

    @staticmethod
    def _codewords(step: Summand, part: Quantized) -> Tensor:
        if part.codewords is not None:
            return part.codewords
        with base.unchecked():
            return step.head.lookup(part.codes, step.head.layout(*step.grid)).detach()

    def _kept(self, steps: int, z: Tensor) -> Tensor | None:
        """1 for the steps that are added to the latents of the batch, else 0: (steps, b or 1, 1, 1, 1)."""
        if self.dropout is None or not self.training:
            return None
        number = torch.randint(1, steps + 1, (1 if self.dropout == "batch" else len(z),), device=z.device)
        return (torch.arange(steps, device=z.device)[:, None] < number).to(z)[:, :, None, None, None]

    def _losses(
        self, z: Tensor, parts: list[Quantized], sums: list[Tensor], weight: Tensor | None
    ) -> dict[str, Tensor]:
        losses = {}
        for name in self.loss_names:
            if self.losses == "sums" and name == "commitment":
                terms = [base.squared_error(z, total.detach(), weight) for total in sums]
            elif self.losses == "sums" and name == "codebook":
                terms = [base.squared_error(total, z.detach(), weight) for total in sums]
            else:
                terms = [part.losses[name] for part in parts if name in part.losses]
            if terms:
                losses[name] = torch.stack(terms).mean()
        return losses

    def _stats(self, steps: list[Summand], parts: list[Quantized]) -> dict[str, Tensor] | None:
        """Statistics of each head, of all its steps together."""
        stats: dict[str, Tensor] = {}
        for name in self.head_names:
            own = [(part.stats, step.grid) for step, part in zip(steps, parts, strict=True) if step.name == name]
            calls = [(call, h * w) for call, (h, w) in own if call]
            stats |= {f"{name}.{key}": value for key, value in code_statistics.merged(calls).items()}
        return stats or None

    @base.in_float32
    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        z, grid, found = z.float(), (z.shape[2], z.shape[3]), []
        total = torch.zeros_like(z)
        with base.unchecked(), computed_once(self):
            for step in self.steps(*grid):
                codes = step.head.encode(self._input(z - total, step), self._context(context, step)).codes
                found.append(codes)
                if len(found) < step.of:
                    looked_up = step.head.lookup(codes, step.head.layout(*step.grid))
                    total = total + self.enlarged(looked_up, step, grid)
        return Codes(self.join(found, self.layout(*grid)))

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        return self.partial(codes, self.layout_of(codes) if layout is None else layout)[-1]

    @base.in_float32
    def partial(self, codes: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        """Latents (b, d, h, w) after each step that ``codes`` have, which may be the first ones."""
        grid = layout.grids[-1]
        maps = self.split(base.check_codes(codes, self._sizes_of(codes)), layout)
        latents: list[Tensor] = []
        with base.unchecked(), computed_once(self):
            for step, own in zip(self.steps(*grid), maps, strict=False):
                looked_up = self.enlarged(step.head.lookup(own, step.head.layout(*step.grid)), step, grid)
                latents.append((latents[-1] if latents else torch.zeros_like(looked_up)) + looked_up)
        return tuple(latents)

    def _sizes_of(self, codes: Tensor) -> tuple[int, ...]:
        """Sizes of the codebooks that codes have."""
        return self.codebook_sizes

    @base.in_float32
    @torch.no_grad()
    def near_ties(self, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Positions where a code of ``b`` is nearest to what ``b``'s own earlier steps have left.

        After a step where two codes are equally near all later codes may differ from those of ``a``.
        """
        z, grid = z.float(), (z.shape[2], z.shape[3])
        layout, total, found = self.layout(*grid), torch.zeros_like(z), []
        with base.unchecked(), computed_once(self):
            for step, own in zip(self.steps(*grid), self.split(b, layout), strict=True):
                residual = self._input(z - total, step)
                nearest = step.head.encode(residual).codes
                found.append((nearest == own) | step.head.near_ties(residual, nearest, own))
                largest = torch.tensor(step.head.codebook_sizes, device=own.device).view(-1, 1, 1) - 1
                inside = own.clamp(min=0).minimum(largest)
                looked_up = step.head.lookup(inside, step.head.layout(*step.grid))
                total = total + self.enlarged(looked_up, step, grid)
        return self.join(found, layout)

    def update(self, stats: dict[str, Tensor] | None) -> dict[str, Tensor]:
        self.forwards, moved = None, {}
        for name in self.head_names:
            own = {
                key.removeprefix(f"{name}."): value
                for key, value in (stats or {}).items()
                if key.startswith(f"{name}.")
            }
            moved |= self._named(name, cast(Quantizer, self.get_submodule(name)).update(own))
        return moved

    @staticmethod
    def _named(name: str, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"{name}.{own}": value for own, value in rows.items()}

    def advice(self) -> list[str]:
        heads = [cast(Quantizer, self.get_submodule(name)) for name in self.head_names]
        return list(dict.fromkeys(idea for head in heads for idea in head.advice()))


def scaled(table: Table | None, factor: float) -> Table | None:
    """The table that a latent is compared with and gets, where the codewords of a step have a factor."""
    if table is None or factor == 1:
        return table
    search = table.search if table.metric == "cosine" else table.search * factor
    bias = None if table.bias is None else table.bias * (1 if table.metric == "cosine" else factor * factor)
    return Table(search, table.metric, table.values * factor, bias)
