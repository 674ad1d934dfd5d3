"""Metrics of an evaluation: image fidelity, the Fréchet distance and codebook usage."""

from vistok.metrics.feature_networks import DINOv2, Inception, TimmFeatures, TorchvisionFeatures
from vistok.metrics.fidelity import ms_ssim, psnr, ssim
from vistok.metrics.frechet import FeatureStatistics, frechet_distance
from vistok.metrics.inception_score import InceptionScore
from vistok.metrics.reconstruction import ReconstructionMetrics, bicubic_baseline
from vistok.metrics.states import Accumulator, Reduction
from vistok.metrics.usage import CodebookUsage, DistinctTuples

__all__ = [
    "Accumulator",
    "CodebookUsage",
    "DINOv2",
    "DistinctTuples",
    "FeatureStatistics",
    "Inception",
    "InceptionScore",
    "ReconstructionMetrics",
    "Reduction",
    "TimmFeatures",
    "TorchvisionFeatures",
    "bicubic_baseline",
    "frechet_distance",
    "ms_ssim",
    "psnr",
    "ssim",
]
