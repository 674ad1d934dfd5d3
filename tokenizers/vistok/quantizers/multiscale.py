"""Multi-scale quantization: a residual over maps from 1 × 1 to the full grid (VAR, arXiv:2404.02905)."""

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers import base
from vistok.quantizers.base import Layout, Quantizer, Table
from vistok.quantizers.estimators import Estimator, RotationTrick, StraightThrough
from vistok.quantizers.scale_schedules import Name, Schedule, fixed, grids_of
from vistok.quantizers.summed import Estimate, Passed, Summand, SummedQuantizer


class MultiScaleQuantizer(SummedQuantizer):
    """Sums the enlarged codewords of S maps, each quantizing the residual at its own resolution, over any head.

    For each scale the residual is averaged over the cells of the scale's grid and quantized; its codewords are enlarged
    to the full grid and pass a convolution, ``φ(u) = (1 - r) u + r conv(u)`` (section 3.4, and the code for φ). Codes
    are (b, k, 1, n), all maps one after the other in raster order; ``lookup`` accepts those of the first scales alone.
    VAR is this over a ``VectorQuantizer`` with the default arguments. Infinity (arXiv:2412.04431) is this over a
    spherical ``BinaryQuantizer`` with ``upsampling="bilinear"``, ``phi=0``, ``losses="steps"``, ``estimate="steps"``.

    Args:
        head: Head of all scales.
        schedule: Sides of the scales, or pairs (h, w), the last of which is the grid of the only latents that the head
            then accepts; or a name, ``var``, ``infinity``, ``infinity_dynamic`` or ``infinity_patches``, for latents of
            every size (``scale_schedules.grids_of``).
        phi: Number K of φ convolutions, shared by neighbouring scales: scale i of S takes the one of K even ticks in
            [0, 1] that is nearest to i / (S - 1). 4 in VAR, 1 for a single one, S for one each, 0 for none.
        phi_ratio: r, the share of the convolution in φ.
        upsampling: ``bicubic`` (VAR) or ``bilinear`` (Infinity's trilinear for a single frame).
        losses: ``sums`` or ``steps``, see ``SummedQuantizer``; φ learns from ``sums``.
        estimator: Gradient estimator of the sum.
        estimate: ``sum``, ``steps`` or ``heads``.
        residual_gradient: ``latent``, ``codewords``, ``both`` or ``none``.
        factors: Factor of the codewords of each scale; a number r stands for 1, r, r², ....
        dropout: ``batch`` or ``sample`` decodes a random number of scales in training; None always all.
    """

    def __init__(
        self,
        head: Quantizer,
        schedule: Schedule = "var",
        phi: int = 4,
        phi_ratio: float = 0.5,
        upsampling: Literal["bicubic", "bilinear"] = "bicubic",
        losses: Literal["sums", "steps"] = "sums",
        estimator: Estimator = StraightThrough(),
        estimate: Estimate = "sum",
        residual_gradient: Passed = "latent",
        factors: float | Sequence[float] = 1.0,
        dropout: Literal["batch", "sample"] | None = None,
    ):
        if isinstance(schedule, str) and schedule not in get_args(Name):
            known = ", ".join(get_args(Name))
            raise ValueError(f"schedule must be one of {known}, or a list of sides, not {schedule!r}")
        if upsampling not in ("bicubic", "bilinear"):
            raise ValueError(f"upsampling must be bicubic or bilinear, not {upsampling!r}")
        if phi < 0 or not 0 <= phi_ratio <= 1:
            raise ValueError(f"phi={phi} must not be negative, and phi_ratio={phi_ratio} must be in [0, 1]")
        super().__init__({"head": head}, losses, estimator, estimate, residual_gradient, factors, dropout)
        if phi and losses == "steps" and estimate == "sum" and isinstance(estimator, StraightThrough | RotationTrick):
            raise ValueError(f"phi={phi} convolutions would learn from nothing with losses='steps': use losses='sums'")
        self.head = head
        self.schedule: Schedule = schedule if isinstance(schedule, str) else list(schedule)
        self.phi, self.phi_ratio = phi, phi_ratio
        self.upsampling: Literal["bicubic", "bilinear"] = upsampling
        self.grid_multiple = 2 if schedule == "infinity_patches" else 1
        self.convolutions = nn.ModuleList(nn.Conv2d(head.dim, head.dim, 3, padding=1) for _ in range(phi))
        self.codebook_sizes = head.codebook_sizes
        if phi and losses == "sums":  # which φ learns from, whatever the codebook learns from
            self.loss_names = tuple(dict.fromkeys((*self.loss_names, "codebook")))
        if not isinstance(self.schedule, str):
            self.fixed_grid = fixed(self.schedule)[-1]
            if not isinstance(factors, float | int) and len(factors) != len(self.schedule):
                raise ValueError(f"factors={list(factors)} must be {len(self.schedule)} numbers, one for each scale")

    @property
    def steady_gradients(self) -> bool:
        """False where other image sizes have other scales, and so convolve with other ones of the φ."""
        return not self.phi or self.fixed_grid is not None

    def _check(self, heads: dict[str, Quantizer]) -> None:
        super()._check(heads)
        for head in heads.values():
            if len(head.layout(*head.example_grid).grids) > 1 or head.fixed_grid or head.grid_multiple > 1:
                raise ValueError(f"a {type(head).__name__} cannot quantize the maps of all scales, such as 1x1")
            if head.context_fields:
                raise ValueError(
                    f"a {type(head).__name__} reads {' and '.join(sorted(head.context_fields))} beside the latent, "
                    "which the maps of a multi-scale quantizer do not have"
                )

    def layout(self, h: int, w: int) -> Layout:
        return Layout(grids_of(self.schedule, h, w), len(self.codebook_sizes))

    def steps(self, h: int, w: int) -> list[Summand]:
        grids = grids_of(self.schedule, h, w)
        return [Summand("head", self.head, grid, self.factor(i), i, len(grids)) for i, grid in enumerate(grids)]

    def enlarged(self, codewords: Tensor, step: Summand, grid: tuple[int, int]) -> Tensor:
        codewords = super().enlarged(codewords, step, grid)
        # Interpolation and convolution round differently for another memory format, which heads may return.
        codewords = codewords.clone(memory_format=torch.contiguous_format)
        if step.grid != grid:
            codewords = F.interpolate(codewords, grid, mode=self.upsampling)
        if not self.phi:
            return codewords
        convolved = base.called_in_float32(self.convolutions[phi_of(step.number, step.of, self.phi)], codewords)
        return codewords * (1 - self.phi_ratio) + convolved * self.phi_ratio

    def split(self, codes: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        return layout.split(codes)

    def join(self, codes: Sequence[Tensor], layout: Layout) -> Tensor:
        return layout.join(codes)

    def owner(self, i: int) -> tuple[Quantizer, int]:
        return self.head.owner(i)

    def table(self, i: int) -> Table | None:
        """The i-th codebook, which all scales search; before φ and ``factors``."""
        return self.head.table(i)

    def with_table(self, i: int, table: Table) -> "MultiScaleQuantizer":
        return self._with(self.head.for_inference().with_table(i, table))

    def revive(self, i: int, rows: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        return self._named("head", self.head.revive(i, rows, vectors))

    def for_inference(self) -> "MultiScaleQuantizer":
        return self._with(self.head.for_inference())

    def _with(self, head: Quantizer) -> "MultiScaleQuantizer":
        steps = (self.losses, self.estimator, self.estimate, self.residual_gradient, self.factors, self.dropout)
        with torch.random.fork_rng(devices=[]):  # validation must not change the random numbers of training
            other = MultiScaleQuantizer(head, self.schedule, self.phi, self.phi_ratio, self.upsampling, *steps)
        other.convolutions = copy.deepcopy(self.convolutions).requires_grad_(False)
        return other.eval()


def phi_of(number: int, scales: int, phi: int) -> int:
    """Index of the φ convolution of a scale, from 0, among ``phi``.

    Two ticks can be equally near; float64 and the first of them give the published assignment.
    """
    first = 1 / 12 if phi == 4 else 1 / (2 * phi)
    step = (1 - first - first) / max(phi - 1, 1)
    distances = [abs(first + i * step - number / max(scales - 1, 1)) for i in range(phi - 1)]
    distances.append(abs(1 - first - number / max(scales - 1, 1)))  # the last tick exactly
    return distances.index(min(distances))
