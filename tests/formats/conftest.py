"""Small VQGANs to export."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.quantizers import Quantizer, VectorQuantizer


@pytest.fixture
def make_vqgan() -> Callable[..., Tokenizer]:
    """``make_vqgan(head, channels=32, ...)``: an f2 VQGAN of random weights, with the arguments of its networks."""

    def make(head: Quantizer, **arguments) -> Tokenizer:
        torch.manual_seed(0)
        size = {"channels": 32, "multipliers": (1, 2), "num_blocks": 1, "attention": (1,), "dim": 16} | arguments
        maps = nn.Conv2d(size["dim"], head.dim, 1), nn.Conv2d(head.dim, size["dim"], 1)
        return Tokenizer(CNNEncoder(**size), head, CNNDecoder(**size), *maps).eval()

    return make


@pytest.fixture
def uneven() -> Callable[..., VectorQuantizer]:
    """``uneven(cosine=True)``: a head of 128 codewords whose lengths range from 0.5 to 1.5."""

    def make(dim: int = 4, **arguments) -> VectorQuantizer:
        torch.manual_seed(1)
        head = VectorQuantizer(128, dim, **arguments)
        lengths = torch.linspace(0.5, 1.5, 128)[:, None]
        head.codewords.data.copy_(nn.functional.normalize(torch.randn(128, dim)) * lengths)
        return head

    return make
