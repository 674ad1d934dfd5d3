"""Small codecs."""

import numpy as np
import pytest
import torch

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.codec import Codec
from vistok.codec.coder import Rate
from vistok.codec.frequencies import gather
from vistok.codec.reduction import reduced, tables_of, with_tables
from vistok.quantizers import FactorizedQuantizer
from vistok.quantizers.vq import plain


def skewed(rng, shape, size):
    """Codes whose frequencies fall, and which repeat their neighbour to the left half of the time."""
    codes = np.minimum(rng.geometric(0.3, shape) - 1, size - 1)
    for x in range(1, shape[-1]):
        codes[..., x] = np.where(rng.random(shape[:-1]) < 0.5, codes[..., x - 1], codes[..., x])
    return codes


def make(num_codebooks, cosine=False):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    size = {"channels": 8, "multipliers": (1, 2, 2), "num_blocks": 1, "attention": (2,), "dim": 8}
    tables = [torch.randn(20, 4) for _ in range(num_codebooks)]
    tables = [torch.nn.functional.normalize(t) for t in tables] if cosine else tables
    heads = [plain(t, cosine) for t in tables]
    head = FactorizedQuantizer(heads, disentangle=False) if num_codebooks > 1 else heads[0]
    dim = 4 * num_codebooks
    tokenizer = Tokenizer(
        CNNEncoder(**size), head, CNNDecoder(**size), torch.nn.Conv2d(8, dim, 1), torch.nn.Conv2d(dim, 8, 1)
    )
    tokenizer = tokenizer.eval().requires_grad_(False)
    heads = [head.for_inference(), with_tables(tokenizer.fold().quantizer, [reduced(t, 5) for t in tables])]
    rates = [
        Rate(h, tuple(gather(t, skewed(rng, (40, 8, 8), len(t))) for t in tables_of(h))) for h in heads
    ]  # fmt: skip
    return Codec(tokenizer.fold(), rates)


@pytest.fixture(scope="package", params=[(1,), (2,), (1, True)], ids=["one codebook", "two codebooks", "cosine"])
def codec(request):
    """A codec of an f4 tokenizer with 20 and 5 codewords in each codebook."""
    return make(*request.param)


@pytest.fixture(scope="package")
def picture():
    """(3, 30, 45) uint8: no multiple of 4 either way."""
    rng = np.random.default_rng(1)
    return torch.from_numpy(np.kron(rng.integers(0, 256, (3, 6, 9)), np.ones((1, 5, 5))).astype(np.uint8))
