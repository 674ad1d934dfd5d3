"""Logit-Laplace likelihood of pixels (DALL-E, arXiv:2102.12092, appendix A.3), a loss of ViT-VQGAN."""

import torch
from torch import Tensor, nn

from vistok.images.ranges import EPSILON, LogitLaplaceMap
from vistok.losses.masks import masked_mean


class LogitLaplace(nn.Module):
    """Mean ``|logit y - μ| / b + ln b + ln(y (1 - y))`` over pixels y of (ε, 1 - ε).

    This is the negative logarithm of ``exp(-|logit y - μ| / b) / (2 b y (1 - y))`` without the constant ln 2, as in
    BSQ-ViT's code: it is negative where the likelihood is high. The tokenizer's ``pixels`` must be a
    ``LogitLaplaceMap`` of the same ε.

    Args:
        epsilon: Smallest distance of pixels from 0 and 1, where the logit is infinite.
    """

    def __init__(self, epsilon: float = EPSILON):
        super().__init__()
        self.pixels = LogitLaplaceMap(epsilon)

    def forward(self, output: Tensor, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Computes the loss of a decoder's output (b, 2c, H, W), all μ and then all ln b, and images in [-1, 1].

        The mean is over all pixels, or over those where ``mask`` (b, 1, H, W) bool is True.

        Raises:
            ValueError: The decoder does not have twice as many channels as the images.
        """
        if output.shape[1] != 2 * images.shape[1]:
            raise ValueError(
                f"the logit-Laplace loss needs μ and ln b of {images.shape[1]} channels: "
                f"a decoder with out_channels={2 * images.shape[1]}, not {output.shape[1]}"
            )
        with torch.autocast(output.device.type, enabled=False):
            mean, log_scale = output.float().chunk(2, dim=1)
            y = self.pixels.into(images.float())
            loss = (y.logit() - mean).abs() * (-log_scale).exp() + log_scale + (y * (1 - y)).log()
            return masked_mean(loss, mask)
