"""DQ-VAE's decoder, which adds position embeddings to the latent (arXiv:2305.11718; code: ``fourier+learned``)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.interface import Decoder, decode
from vistok.quantizers.base import Context


class PositionalDecoder(Decoder):
    """Adds position embeddings to the latent (b, dim, h, w), then decodes it.

    The embedding of a position is the sum of sines of its coordinates with learned frequencies (arXiv:2011.13775,
    section 3.2), of a learned vector of its row, and of one of its column. With VQGAN's decoder of multipliers
    (1, 1, 2, 2) and attention in the last level, there are 14,397,571 parameters, as published. On grids of every size
    coordinates run from -1 to 1; on a grid of another size than ``grid`` the vectors of rows and columns are
    interpolated linearly.

    Args:
        decoder: Any decoder.
        dim: Channels of the latent; must equal the decoder's ``dim``.
        grid: Side of the latent grid for which the vectors of rows and columns are learned.
    """

    def __init__(self, decoder: Decoder, dim: int = 256, grid: int = 32):
        super().__init__()
        if decoder.dim != dim:
            raise ValueError(f"dim={dim}, but the decoder takes {decoder.dim} channels")
        self.decoder, self.dim, self.grid, self.factor = decoder, dim, grid, decoder.factor
        self.context_fields = getattr(decoder, "context_fields", frozenset())  # a user's decoder may have none
        self.frequencies = nn.Conv2d(2, dim, 1)  # frequencies and phases of the sines of x and y
        nn.init.uniform_(self.frequencies.weight, -(4.5**0.5), 4.5**0.5)
        self.rows, self.columns = (nn.Parameter(nn.init.trunc_normal_(torch.empty(grid, dim))) for _ in range(2))

    def forward(
        self,
        latent: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        h, w = latent.shape[-2:]
        y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, device=latent.device) for n in (h, w)), indexing="ij")
        waves = self.frequencies(torch.stack([x, y])[None].to(self.frequencies.weight.dtype)).sin()
        learned = interpolate(self.rows, h)[:, :, None] + interpolate(self.columns, w)[:, None, :]
        return decode(self.decoder, latent + waves + learned, size, keep, context)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight at which the adaptive adversarial weight compares gradients."""
        return cast(nn.Parameter, self.decoder.last_layer)


def interpolate(vectors: Tensor, num_points: int) -> Tensor:
    """Interpolates n vectors (n, d) of equally spaced points on a line linearly to (d, num_points); d comes first."""
    vectors = vectors.T
    if vectors.shape[1] == num_points:
        return vectors
    return F.interpolate(vectors[None], num_points, mode="linear", align_corners=False)[0]
