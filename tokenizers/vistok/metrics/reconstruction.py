"""Everything that one evaluation of reconstructions reports, on 8-bit images."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, SumMetric
from torchmetrics.functional.image import structural_similarity_index_measure

from vistok.metrics.frechet import FrechetDistance
from vistok.metrics.usage import CodebookUsage
from vistok.pixels import to_float, to_uint8

SSIM_WINDOW = 11


class ReconstructionMetrics(nn.Module):
    """Metrics over all images seen, summed over ranks.

    Images and reconstructions are rounded to 8 bits once, since that is how images are stored and compared, and every
    metric sees the same pixels. ``compute`` returns scalars, by name:

    * ``psnr``: over RGB pixels of each image, then the mean over images (see ``psnr``).
    * ``ssim``: Gaussian window of 11 pixels and 1.5 deviation, range 255, per channel; the mean over images.
    * ``psnr_block_mean``: PSNR of ``block_mean``, what averaging factor × factor pixels alone would keep.
    * ``lpips``: the mean over images, where a network is given.
    * ``rfid``, or ``frechet_`` and the network's name (see ``FrechetDistance``), where a network is given.
    * ``usage``, ``usage_ceiling``, ``perplexity``, ``entropy_bits``, ``tokens``: see ``CodebookUsage``.
    * ``images``: how many.

    Args:
        codebook_sizes: Codewords in each of the k codebooks.
        factor: Pixels along each side of a latent position.
        lpips: ``lpips(reconstruction, images)`` on [-1, 1], the mean over the batch.
        network: Features for the Fréchet distance, which then needs at least 2 images.
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        factor: int,
        lpips: nn.Module | None = None,
        network: nn.Module | None = None,
    ):
        super().__init__()
        self.factor = factor
        self.lpips = lpips
        names = ["psnr", "ssim", "psnr_block_mean"] + ([] if lpips is None else ["lpips"])
        # Unchecked, since the check for NaN waits for the GPU, and by default drops what it finds from the mean.
        self.means = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in names})
        self.images = SumMetric(nan_strategy="disable")
        for metric in (*self.means.values(), self.images):
            metric.set_dtype(torch.float64)  # sums over a data set; float32 would lose digits
        self.frechet = None if network is None else FrechetDistance(network)
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
                "ssim": structural_similarity_index_measure(
                    reconstruction.float(),
                    images.float(),
                    sigma=1.5,
                    kernel_size=SSIM_WINDOW,
                    data_range=255.0,
                    reduction="none",
                ),
                "psnr_block_mean": psnr(block_mean(images, self.factor), images),
            }
            if self.lpips is not None:
                # One value for each image, as MeanMetric disregards weights when it does not check for NaN.
                values["lpips"] = self.lpips(to_float(reconstruction), to_float(images)).expand(len(images))
        for name, value in values.items():
            self.means[name].update(value)
        self.images.update(torch.ones(len(images), device=images.device))
        if self.frechet is not None:
            self.frechet.update(images, reconstruction)
        self.usage.update(codes, keep)

    def compute(self) -> dict[str, Tensor]:
        """Every metric over all ranks: float64 scalars by name."""
        values = {name: mean.compute() for name, mean in self.means.items()}
        if self.frechet is not None:
            values[self.frechet.name] = self.frechet.compute()
        return values | self.usage.compute() | {"images": self.images.compute()}

    def reset(self) -> None:
        """Forget everything seen."""
        for part in self.modules():
            if isinstance(part, Metric):
                part.reset()


def psnr(reconstruction: Tensor, images: Tensor, highest: float = 100.0) -> Tensor:
    """Peak signal-to-noise ratio of each image: 10 log₁₀(255² / mean squared error) in dB, (b,) float32.

    Args:
        reconstruction: (b, c, H, W) uint8.
        images: The same shape.
        highest: What an image without any error counts, since infinity would be the mean over all images.
    """
    error = (reconstruction.float() - images.float()).square().mean((1, 2, 3))
    return (20 * math.log10(255) - 10 * error.log10()).clamp(max=highest)


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
