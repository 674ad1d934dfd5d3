"""Metrics of held-out images during training, on 8-bit pixels: the cheap part of an evaluation."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.images.ranges import to_uint8
from vistok.metrics.distances import SSIM_WINDOW, psnr, ssim_gauss11
from vistok.metrics.image_checks import check_range, check_shapes
from vistok.metrics.states import Accumulator, Reduction
from vistok.metrics.usage import CodebookUsage


class Means(Accumulator):
    """Means of several values over all images, summed in float64, since float32 would lose digits over a data set.

    Args:
        names: Names of the values.
    """

    sums: Tensor
    count: Tensor

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names = tuple(names)
        self.declare("sums", torch.zeros(len(self.names), dtype=torch.float64), Reduction.SUM)
        self.declare("count", torch.zeros((), dtype=torch.float64), Reduction.SUM)

    def update(self, sums: Mapping[str, Tensor], count: int) -> None:
        """Adds a batch.

        Args:
            sums: Sum of each value over the images: float64 scalars.
            count: Number of images.

        Raises:
            ValueError: A value is missing, or is not a scalar.
        """
        for name in self.names:
            if name not in sums or sums[name].ndim:
                given = f"of the shape {tuple(sums[name].shape)}" if name in sums else "missing"
                raise ValueError(f"the sum of {name} must be a scalar, and is {given}")
        self.sums += torch.stack([sums[name] for name in self.names])
        self.count += count

    def compute(self) -> dict[str, Tensor]:
        """Means by name: float64 scalars, NaN without images."""
        return dict(zip(self.names, self.sums / self.count, strict=True))


class ReconstructionMetrics(Accumulator):
    """Metrics over all images of a validation.

    Images and reconstructions are rounded to 8 bits once, since images are stored and compared in this form, and every
    metric reads the same pixels. ``compute`` returns scalars by name:

    * ``psnr``: over RGB pixels of each image, then the mean over images (see ``psnr``).
    * ``ssim``: Gaussian window of 11 pixels and standard deviation 1.5, range 255, per channel; the mean over images.
    * ``psnr_bicubic``: PSNR of the bicubic baseline, see ``bicubic_baseline``.
    * ``usage``, ``usage_ceiling``, ``perplexity``, ``entropy_bits``, ``tokens``: see ``CodebookUsage``.
    * ``images``: number of images.
    * the means of ``terms``.

    Args:
        codebook_sizes: Number of codewords in each of the k codebooks.
        factor: Pixels along each side of a latent position.
        terms: Names of loss terms whose values are passed to ``update``.
        num_tokens: Number of 1-D tokens of an image; None for a grid.
    """

    means: Means
    usage: CodebookUsage

    def __init__(
        self, codebook_sizes: Sequence[int], factor: int, terms: Sequence[str] = (), num_tokens: int | None = None
    ):
        super().__init__()
        self.factor, self.terms, self.num_tokens = factor, tuple(terms), num_tokens
        self.declare("means", Means((*self.terms, "psnr", "ssim", "psnr_bicubic")))
        self.declare("usage", CodebookUsage(codebook_sizes))

    @torch.no_grad()
    def update(
        self,
        images: Tensor,
        reconstruction: Tensor,
        codes: Tensor,
        keep: Tensor | None = None,
        terms: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            images: (b, 3, H, W) float in [-1, 1] or uint8, at least 11 pixels high and wide.
            reconstruction: The same shape, float, unclamped, or uint8.
            codes: (b, k, *positions) int64.
            keep: (b, *positions) bool, the positions that are tokens; None for all.
            terms: Mean of each loss term over the batch, by name.

        Raises:
            ValueError: A shape, dtype or range is another, or a term is missing.
        """
        check_shapes(reconstruction, images, SSIM_WINDOW)
        check_range(images)  # not of reconstructions: those of a run that diverges are clamped
        images, reconstruction = (
            to_uint8(side) if side.is_floating_point() else side for side in (images, reconstruction)
        )
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would change the numbers
            values = {
                "psnr": psnr(reconstruction, images),
                "ssim": ssim_gauss11(reconstruction, images),
                "psnr_bicubic": psnr(bicubic_baseline(images, self.factor, self.num_tokens), images),
            }
        sums = {name: value.double().sum() for name, value in values.items()}
        sums |= {name: term.double() * len(images) for name, term in (terms or {}).items() if name in self.terms}
        self.means.update(sums, len(images))
        self.usage.update(codes, keep)

    def compute(self) -> dict[str, Tensor]:
        """All metrics by name: float64 scalars."""
        return self.means.compute() | self.usage.compute() | {"images": self.means.count.clone()}


def bicubic_baseline(images: Tensor, factor: int, num_tokens: int | None = None) -> Tensor:
    """Images reduced to the token grid and enlarged again: block means, then bicubic interpolation. Nothing is learned.

    Args:
        images: (b, c, H, W) uint8; H and W are multiples of the factor.
        factor: Side of a block in pixels.
        num_tokens: Number of 1-D tokens, which form no grid: the images are reduced to the largest square grid with at
            most as many positions. None reduces them by ``factor``.

    Returns:
        The same shape, uint8.

    Raises:
        ValueError: The images are not uint8, or have another size.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"the bicubic baseline is of uint8 images, not of {str(images.dtype).removeprefix('torch.')}")
    height, width = images.shape[-2:]
    if num_tokens is not None:
        means = F.adaptive_avg_pool2d(images.float(), math.isqrt(num_tokens))
    elif height % factor or width % factor:
        raise ValueError(f"image size {height}x{width} is not a multiple of factor={factor}")
    else:
        means = F.avg_pool2d(images.float(), factor)
    enlarged = F.interpolate(means, (height, width), mode="bicubic", align_corners=False)
    return (enlarged.clamp(0, 255) + 0.5).floor().to(torch.uint8)
