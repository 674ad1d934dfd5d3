"""What training reports of the held-out images, on 8-bit pixels: the cheap part of what ``eval.py`` does."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, SumMetric

from vistok.metrics.distances import SSIM_WINDOW, psnr, ssim_gauss11
from vistok.metrics.usage import CodebookUsage
from vistok.pixels import to_uint8


class ReconstructionMetrics(nn.Module):
    """Metrics over all images seen, summed over ranks.

    Images and reconstructions are rounded to 8 bits once, since that is how images are stored and compared, and every
    metric sees the same pixels. ``compute`` returns scalars, by name:

    * ``psnr``: over RGB pixels of each image, then the mean over images (see ``psnr``).
    * ``ssim``: Gaussian window of 11 pixels and 1.5 deviation, range 255, per channel; the mean over images.
    * ``psnr_block_mean``: PSNR of ``block_mean``, what averaging factor × factor pixels alone would keep.
    * ``usage``, ``usage_ceiling``, ``perplexity``, ``entropy_bits``, ``tokens``: see ``CodebookUsage``.
    * ``images``: how many.

    Args:
        codebook_sizes: Codewords in each of the k codebooks.
        factor: Pixels along each side of a latent position.
    """

    def __init__(self, codebook_sizes: Sequence[int], factor: int):
        super().__init__()
        self.factor = factor
        names = ("psnr", "ssim", "psnr_block_mean")
        # Unchecked, since the check for NaN waits for the GPU, and by default drops what it finds from the mean.
        self.means = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in names})
        self.images = SumMetric(nan_strategy="disable")
        for metric in (*self.means.values(), self.images):
            cast(Metric, metric).set_dtype(torch.float64)  # sums over a data set; float32 would lose digits
        self.usage = CodebookUsage(codebook_sizes)

    @torch.no_grad()
    def update(self, images: Tensor, reconstruction: Tensor, codes: Tensor, keep: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            images: (b, 3, H, W) in [-1, 1], at least 11 pixels high and wide.
            reconstruction: The same shape, unclamped.
            codes: (b, k, *positions) int64.
            keep: (b, *positions) bool, the positions that are tokens; None for all.
        """
        images, reconstruction = to_uint8(images), to_uint8(reconstruction)
        if min(images.shape[-2:]) < SSIM_WINDOW:
            size = "x".join(map(str, images.shape[-2:]))
            raise ValueError(f"images of {size} pixels are smaller than SSIM's window of {SSIM_WINDOW}")
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would change the numbers
            values = {
                "psnr": psnr(reconstruction, images),
                "ssim": ssim_gauss11(reconstruction.float(), images.float()),
                "psnr_block_mean": psnr(block_mean(images, self.factor), images),
            }
        for name, value in values.items():
            cast(Metric, self.means[name]).update(value)
        self.images.update(torch.ones(len(images), device=images.device))
        self.usage.update(codes, keep)

    def compute(self) -> dict[str, Tensor]:
        """Every metric over all ranks: float64 scalars by name."""
        values = {name: cast(Metric, mean).compute() for name, mean in self.means.items()}
        return values | self.usage.compute() | {"images": self.images.compute()}

    def reset(self) -> None:
        """Forget everything seen."""
        for part in self.modules():
            if isinstance(part, Metric):
                part.reset()


def block_mean(images: Tensor, factor: int) -> Tensor:
    """A baseline without any learning: means of factor × factor pixels, enlarged again by bicubic interpolation.

    Args:
        images: (b, c, H, W) uint8, H and W multiples of the factor.
        factor: Pixels along each side of a block.

    Returns:
        The same shape, uint8.
    """
    height, width = images.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"image size {height}x{width} is not a multiple of factor={factor}")
    means = F.avg_pool2d(images.float(), factor)
    enlarged = F.interpolate(means, (height, width), mode="bicubic", align_corners=False)
    return (enlarged.clamp(0, 255) + 0.5).floor().to(torch.uint8)
