"""Short forms of modules, and their numbers of weights."""

import torch
from torch import nn

from vistok import PixelMap, Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.quantizers import (
    FSQ,
    DynamicQuantizer,
    FeatureRouter,
    MultiScaleQuantizer,
    ResidualQuantizer,
    RotationTrick,
    SimVQ,
    VectorQuantizer,
    factorized,
)
from vistok.structure import WeightCount, amount

SIZE = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": ()}


def test_tables_that_are_no_parameters_are_counted():
    """Moving averages of 6 codewords of 4 channels: the codewords, their sums and 6 counts."""
    assert WeightCount.of(VectorQuantizer(6, 4)) == (24, 24, 0)
    assert WeightCount.of(VectorQuantizer(6, 4, ema_decay=0.9)) == (0, 0, 24 + 24 + 6)
    assert WeightCount.of(SimVQ(6, 4)) == (4 * 4 + 4, 20, 24)
    assert WeightCount.of(FSQ([3, 3])) == (0, 0, 0)  # its constants are in no file
    assert WeightCount.of(VectorQuantizer(6, 4).requires_grad_(False)) == (24, 0, 0)


def test_shared_weights_count_once():
    shared = VectorQuantizer(6, 4, ema_decay=0.9)
    assert WeightCount.of(nn.ModuleList([shared, shared])).buffers == 54
    both = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    both[1].weight = both[0].weight
    assert WeightCount.of(both).parameters == 4


def test_amounts():
    assert [amount(n) for n in (0, 983_040, 999_999, 1_000_000, 72_114_000, 99_960_000, 1_210_000_000)] == [
        "0", "983,040", "999,999", "1 M", "72.1 M", "100 M", "1,210 M"]  # fmt: skip


def test_heads_in_a_line():
    assert repr(VectorQuantizer(1024, 16)) == "VectorQuantizer(1,024 codewords, 16 channels, 16,384 parameters)"
    assert repr(VectorQuantizer(6, 4, ema_decay=0.9, estimator=RotationTrick())) == (
        "VectorQuantizer(6 codewords, 4 channels, ema_decay=0.9, estimator=RotationTrick(least_norm=1e-06), "
        "54 in buffers)"
    )
    assert repr(SimVQ(6, 4)) == "SimVQ(6 codewords, 4 channels, 20 parameters + 24 in buffers)"
    assert repr(FSQ([8, 5])) == "FSQ(40 codewords, 2 channels, levels=[8, 5], 0 parameters)"


def test_heads_of_heads():
    vq = VectorQuantizer(6, 4)
    assert repr(factorized(lambda dim: VectorQuantizer(6, dim), 2, 8)) == (
        "FactorizedQuantizer(\n  2 x 6 codewords, 8 channels, 48 parameters\n"
        "  2 x VectorQuantizer(6 codewords, 4 channels, 24 parameters)\n)"
    )
    assert repr(ResidualQuantizer([vq, VectorQuantizer(8, 4)], factors=0.5)).splitlines() == [
        "ResidualQuantizer(",
        "  6 + 8 codewords, 4 channels, depth=2, factors=0.5, 56 parameters",
        "  VectorQuantizer(6 codewords, 4 channels, 24 parameters)",
        "  VectorQuantizer(8 codewords, 4 channels, 32 parameters)",
        ")",
    ]
    nested = MultiScaleQuantizer(ResidualQuantizer(vq, depth=2), schedule=[1, 2], phi=0)
    assert repr(nested).splitlines() == [
        "MultiScaleQuantizer(",
        "  2 x 6 codewords, 4 channels, schedule=[1, 2], phi=0, 24 parameters",
        "  ResidualQuantizer(",
        "    2 x 6 codewords, 4 channels, depth=2, 24 parameters",
        "    VectorQuantizer(6 codewords, 4 channels, 24 parameters)",
        "  )",
        ")",
    ]
    dynamic = repr(DynamicQuantizer(vq, FeatureRouter(4, groups=None), rates=[0.5])).splitlines()
    assert dynamic[1].startswith("  6 codewords, 4 channels, router=FeatureRouter, rates=[0.5], ")


class Halves(nn.Module):
    """A user's encoder, which has only what a tokenizer needs."""

    factor, dim = 2, 3

    def forward(self, images):
        return nn.functional.avg_pool2d(images, 2)


def test_a_tokenizer_in_a_few_lines():
    head = VectorQuantizer(6, 4, ema_decay=0.9)
    tokenizer = Tokenizer(Halves(), head, CNNDecoder(**SIZE, dim=3), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1))
    networks = WeightCount.of(tokenizer.decoder).parameters
    assert repr(tokenizer).splitlines() == [
        "Tokenizer(",
        f"  3 channels, factor 2, {networks + 16 + 15:,} parameters + 54 in buffers",
        "  (encoder): Halves(0 parameters)",
        "  (to_latent): Conv2d(3, 4, kernel_size=(1, 1), stride=(1, 1), 16 parameters)",
        f"  (quantizer): {head}",
        "  (from_latent): Conv2d(4, 3, kernel_size=(1, 1), stride=(1, 1), 15 parameters)",
        f"  (decoder): CNNDecoder(from 3 channels, factor 2, {networks:,} parameters)",
        ")",
    ]


def test_the_tree_has_every_layer():
    encoder = CNNEncoder(**SIZE, dim=4, in_channels=1)
    tokenizer = Tokenizer(encoder, VectorQuantizer(6, 4), CNNDecoder(**SIZE, dim=4, out_channels=1), pixels=PixelMap(2))
    assert (
        repr(encoder)
        == f"CNNEncoder(from 1 to 4 channels, factor 2, {WeightCount.of(encoder).parameters:,} parameters)"
    )
    lines = tokenizer.tree().splitlines()
    assert lines[1] == "  1 channel, factor 2, pixels=PixelMap(scale=2, shift=0.0)"
    layers = [m for m in tokenizer.modules() if not list(m.children()) and not isinstance(m, VectorQuantizer)]
    assert [line.split(": ", 1)[1] for line in lines if line.count("(") == line.count(")") and ": " in line and
            "VectorQuantizer" not in line] == [repr(m) for m in layers]  # fmt: skip


def test_printing_changes_nothing():
    head = VectorQuantizer(6, 4, kmeans_updates=2)
    before, random = {name: t.clone() for name, t in head.state_dict().items()}, torch.get_rng_state()
    repr(head)
    assert all(torch.equal(before[name], t) for name, t in head.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
