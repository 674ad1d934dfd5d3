"""A tokenizer of convolutions alone."""

import pytest
import torch
from torch import Tensor, nn

from vistok import Tokenizer
from vistok.quantizers import VectorQuantizer


class Convolutions(nn.Sequential):
    """Encoder or decoder of factor 4 without norms and attention."""

    factor, dim, in_channels = 4, 8, 3

    @property
    def last_layer(self) -> Tensor:
        return self[-1].weight


@pytest.fixture
def local() -> Tokenizer:
    """Of reaches that are known by hand.

    Encoder: a position p depends on the pixels up to 4 p + 14 or back to 4 p - 12, so on three positions at each side.
    Decoder: a pixel depends on three pixels at each side, so on the next position, and this on the one after it.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Convolutions(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(8, 8, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(8, 8, 5, padding=2),
        )
        decoder = Convolutions(
            nn.Conv2d(8, 8, 3, padding=1),
            nn.SiLU(),
            nn.Upsample(scale_factor=4),
            nn.Conv2d(8, 8, 5, padding=2),
            nn.SiLU(),
            nn.Conv2d(8, 3, 3, padding=1),
        )
        return Tokenizer(encoder, VectorQuantizer(32, 8), decoder).eval()
