"""Adaptive group norm: its scale and shift are linear in a latent's statistics (Open-MAGVIT2, arXiv:2409.04410)."""

from torch import Tensor, nn

from vistok.backbones.cnn import group_norm


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale is linear in the latent's standard deviations and whose shift is in its means.

    Both statistics are of each image and channel, over the positions of the latent. The variance is unbiased; a latent
    of one position has none.

    Args:
        width: Channels of the map that is normalised.
        dim: Channels of the latent.
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.norm = group_norm(width, affine=False)
        self.gamma = nn.Linear(dim, width)
        self.beta = nn.Linear(dim, width)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Normalises a map (b, width, H, W) by the statistics of a latent (b, dim, h, w)."""
        positions = latent.flatten(2)
        deviation = (positions.var(2, correction=min(1, positions.shape[2] - 1)) + 1e-6).sqrt()
        scale, shift = self.gamma(deviation), self.beta(positions.mean(2))
        return self.norm(x) * scale[:, :, None, None] + shift[:, :, None, None]
