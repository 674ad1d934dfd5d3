"""Labelled images, tiny tokenizers with heads of several kinds, and their tokens."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.quantizers import (
    BinaryQuantizer,
    DynamicQuantizer,
    FactorizedQuantizer,
    FeatureRouter,
    MultiScaleQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)
from vistok.tokens import TokenProtocol, TokenStore, tokenize
from vistok.tokens.sources import open_source

SIZE = 32


def build(kind: str, dim: int = 4) -> Tokenizer:
    """An f4 tokenizer: ``vq`` of 32 codewords, ``fq`` of 32 and 16, ``dq`` of two grains, ``rq`` of three depths of 32
    and 16 codewords, ``ms`` of the scales 1, 2, 4, 8, and ``lfq`` of 18 bits."""
    torch.manual_seed(0)
    size = {"channels": 8, "multipliers": (1, 1, 1), "num_blocks": 1, "attention": (), "dim": 8}
    head = VectorQuantizer(32, dim)
    if kind == "lfq":
        dim, head = 18, BinaryQuantizer(18, spherical=False)
    if kind == "rq":
        head = ResidualQuantizer([VectorQuantizer(32, dim), VectorQuantizer(32, dim), VectorQuantizer(16, dim)])
    if kind == "ms":
        head = MultiScaleQuantizer(head, (1, 2, 4, 8), phi=2)
    if kind == "fq":
        head = FactorizedQuantizer([VectorQuantizer(32, dim // 2), VectorQuantizer(16, dim // 2)])
    for module in head.modules():
        if isinstance(module, VectorQuantizer):
            nn.init.normal_(module.codewords)
    if kind == "dq":
        head = DynamicQuantizer(head, FeatureRouter(dim, grains=2, groups=2), rates=[0.5])
    tokenizer = Tokenizer(CNNEncoder(**size), head, CNNDecoder(**size), nn.Conv2d(8, dim, 1), nn.Conv2d(dim, 8, 1))
    nn.init.normal_(tokenizer.to_latent.weight, std=2.0)  # codes that differ
    return tokenizer.eval().requires_grad_(False)


@pytest.fixture
def make() -> Callable[[str], Tokenizer]:
    return build


@pytest.fixture(scope="session")
def classes(tmp_path_factory) -> Path:
    """A folder of seven images in the class folders ``cat`` and ``dog``."""
    root, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for i in range(7):
        path = root / ("dog" if i % 3 == 0 else "cat") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.kron(rng.integers(0, 256, (12, 10, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="session")
def stores(classes, tmp_path_factory) -> dict[str, TokenStore]:
    """Tokens by each kind of head, images and mirror images, in shards of four; not to be changed."""
    found = {}
    for kind in ("vq", "fq", "dq", "rq", "ms", "lfq"):
        out = tmp_path_factory.mktemp(kind) / "tokens"
        protocol = TokenProtocol(SIZE, views="flip", batch_size=3, rate=0.5 if kind == "dq" else None)
        tokenize(build(kind), open_source([str(classes)], 4), out, protocol, kind)
        found[kind] = TokenStore(out)
    return found
