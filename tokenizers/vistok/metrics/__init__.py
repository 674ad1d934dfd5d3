"""What an evaluation reports: image fidelity, the Fréchet distance and the use of the codebook."""

from vistok.metrics.features import Inception, TimmFeatures, TorchvisionFeatures
from vistok.metrics.frechet import FrechetDistance, frechet_distance
from vistok.metrics.reconstruction import ReconstructionMetrics, block_mean, psnr
from vistok.metrics.usage import CodebookUsage

__all__ = [
    "CodebookUsage",
    "FrechetDistance",
    "Inception",
    "ReconstructionMetrics",
    "TimmFeatures",
    "TorchvisionFeatures",
    "block_mean",
    "frechet_distance",
    "psnr",
]
