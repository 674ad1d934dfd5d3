"""DQ-VAE's networks: published sizes, and the outputs of the authors' own code through whole tokenizers."""

import re
from typing import NamedTuple

import pytest
import torch
from torch import nn

import vistok
from vistok import Tokenizer
from vistok.backbones import CNNDecoder, HierarchicalEncoder, PositionalDecoder
from vistok.backbones.positional import interpolate
from vistok.formats import native
from vistok.quantizers import DynamicQuantizer, EntropyRouter, FeatureRouter, VectorQuantizer

TRIPLE = {"multipliers": (1, 1, 2, 2, 4, 4), "attention": (3, 4, 5), "num_maps": 3}
SMALL = {"channels": 8, "multipliers": (1, 1, 2), "num_blocks": 1, "attention": (1, 2), "dim": 8}


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    with torch.device("meta"):
        dual, triple = HierarchicalEncoder(), HierarchicalEncoder(**TRIPLE)
        decoder = PositionalDecoder(CNNDecoder(multipliers=(1, 1, 2, 2), attention=(3,)))
        routers = FeatureRouter(256), FeatureRouter(256, 3)
    assert parameters(dual) == 33_042_176 and dual.factor == 8
    assert parameters(dual) + parameters(routers[0]) == 33_306_882  # the authors' encoder holds its router
    assert round((parameters(triple) + parameters(routers[1])) / 1e6, 2) == 59.22 and triple.factor == 8
    assert (parameters(decoder), len(decoder.state_dict())) == (14_397_571, 170)


@pytest.mark.parametrize("num_maps", [2, 3])
def test_maps(num_maps):
    encoder = HierarchicalEncoder(**SMALL, num_maps=num_maps)
    maps = encoder(torch.randn(2, 3, 16, 24))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 4, 6), (2, 8, 8, 12), (2, 8, 16, 24)][:num_maps]
    assert encoder.factor == 16 // maps[-1].shape[2]


def from_dqvae(key, num_maps, levels):
    """The authors' name of a tensor to ours; the decoder counts levels from full resolution."""
    for i, name in enumerate(("coarse", "fine") if num_maps == 2 else ("coarse", "median", "fine")):
        key = re.sub(rf"^encoder\.(mid|norm_out|conv_out)_{name}\.", rf"encoder.tails.{i}.\1.", key)
        key = key.replace(f"encoder.router.feature_norm_{name}.", f"quantizer.router.norms.{i}.")
    key = re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.levels.{levels - 1 - int(m[1])}.", key)
    for pattern, ours in (
        (r"^encoder\.router\.", "quantizer.router."),
        (r"\.down\.(\d+)\.", r".levels.\1."),
        (r"\.block\.", ".blocks."),
        (r"\.attn\.", ".attentions."),
        (r"\.(down|up)sample\.", ".resample."),
        (r"\.mid\.block_1\.", ".mid.0."),
        (r"\.mid\.attn_1\.", ".mid.1."),
        (r"\.mid\.block_2\.", ".mid.2."),
        (r"\.proj_out\.", ".out."),
        (r"\.nin_shortcut\.", ".shortcut."),
        (r"^decoder\.(?!position)", "decoder.decoder."),
        (r"^decoder\.position_bias_fourier\.lff\.ffm\.conv\.", "decoder.frequencies."),
        (r"^decoder\.position_bias_learned\.row_embed\.weight$", "decoder.rows"),
        (r"^decoder\.position_bias_learned\.col_embed\.weight$", "decoder.columns"),
        (r"^quant_conv\.", "quantizer.projection."),
        (r"^post_quant_conv\.", "from_latent."),
        (r"^quantize\.codebook\.weight$", "quantizer.head.table"),
        (r"^quantize\.codebook\.cluster_size_ema$", "quantizer.head.ema_counts"),
        (r"^quantize\.codebook\.embed_ema$", "quantizer.head.ema_sums"),
    ):
        key = re.sub(pattern, ours, key)
    return key


class Reduced(NamedTuple):
    """Settings in which the authors' small models differ."""

    down: tuple[int, ...]  # multipliers
    attention: tuple[int, ...]
    num_maps: int
    codebook: tuple[int, int]
    up: tuple[int, ...]
    grid: int


MODELS = {
    "dqvae_dual_feat": Reduced((1, 1, 2), (1, 2), 2, (64, 24), (1, 1), 16),
    "dqvae_dual_entropy": Reduced((1, 1, 1, 1), (2, 3), 2, (80, 32), (1, 1, 1), 12),
    "dqvae_triple_feat": Reduced((1, 1, 1, 1), (2, 3), 3, (64, 24), (1, 1), 16),
}


def model(name):
    """The authors' reduced model in our parts."""
    reduced = MODELS[name]
    size = {"num_blocks": 1, "channels": 32, "dim": 32}
    router = EntropyRouter([1.8225123882293701], patch=8) if "entropy" in name else FeatureRouter(32, reduced.num_maps)
    head = VectorQuantizer(*reduced.codebook, ema_decay=0.99)
    return Tokenizer(
        HierarchicalEncoder(multipliers=reduced.down, attention=reduced.attention, num_maps=reduced.num_maps, **size),
        DynamicQuantizer(head, router, projection=nn.Conv2d(32, head.dim, 1)),
        PositionalDecoder(
            CNNDecoder(multipliers=reduced.up, attention=(len(reduced.up) - 1,), **size), 32, reduced.grid
        ),
        from_latent=nn.Conv2d(head.dim, 32, 1),
    )


@pytest.mark.parametrize("name", MODELS)
def test_dqvae(family, close, tmp_path, name):
    weights, io = family(name)
    tokenizer, num_maps = model(name), MODELS[name].num_maps
    weights["quantize.codebook.weight"] = weights["quantize.codebook.weight"][:-1]  # the last row is padding
    levels = len(MODELS[name].up)
    tokenizer.load_state_dict({from_dqvae(key, num_maps, levels): tensor for key, tensor in weights.items()})
    side = 2 ** (num_maps - 1)
    seen = []
    tokenizer.quantizer.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for evaluated in (tokenizer.eval(), tokenizer.fold(), vistok.load(native.save(tokenizer, tmp_path))):
            reconstruction, quantized = evaluated(io["images"])
            assert torch.equal(quantized.codes[:, 0], io["codes"])
            close(quantized.latent, io["quantized"])
            torch.testing.assert_close(reconstruction, io["reconstruction"], rtol=0, atol=1e-4)
            tokens = quantized.keep.unfold(1, side, side).unfold(2, side, side).sum((3, 4))
            assert torch.equal(tokens, 4 ** io["grain"])
            decoded = evaluated.decode(evaluated.quantizer.lookup(io["codes"][:, None]))
            torch.testing.assert_close(decoded, io["decoded_from_codes"], rtol=0, atol=1e-4)
        close(seen[0], io["latent"])
        if "feat" in name:
            close(tokenizer.quantizer.router.logits(tokenizer.encoder(io["images"])), io["gate"])


def test_every_parameter_learns_with_a_dynamic_head():
    torch.manual_seed(0)
    decoder = PositionalDecoder(CNNDecoder(**SMALL | {"multipliers": (1, 1), "attention": (1,)}), 8, 8)
    head = DynamicQuantizer(VectorQuantizer(16, 8), FeatureRouter(8, groups=4), rates=[0.5])
    tokenizer = Tokenizer(HierarchicalEncoder(**SMALL), head, decoder).train()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    reconstruction, quantized = tokenizer(images)
    (reconstruction.square().mean() + sum(quantized.losses.values())).backward()
    assert not [name for name, p in tokenizer.named_parameters() if p.grad is None]


def test_a_head_that_sees_the_finest_map_only():
    decoder = CNNDecoder(**SMALL | {"multipliers": (1, 1), "attention": ()})
    tokenizer = Tokenizer(HierarchicalEncoder(**SMALL), VectorQuantizer(16, 4), decoder, nn.Conv2d(8, 4, 1),
                          nn.Conv2d(4, 8, 1))  # fmt: skip
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    maps = tokenizer.encoder(images)
    assert torch.equal(tokenizer.encode(images), tokenizer.to_latent(maps[-1]))
    tokenizer(images).reconstruction.square().mean().backward()
    without = {name for name, p in tokenizer.encoder.named_parameters() if p.grad is None}
    assert without and all(name.startswith(("levels.1.resample", "levels.2", "tails.0")) for name in without)


def test_the_maps_that_a_head_sees():
    """Each in the channels of the latent, the finest as the latent itself."""
    seen = {}

    class Head(VectorQuantizer):
        def forward(self, z, context=vistok.quantizers.Context()):
            seen.update(z=z, maps=context.maps)
            return super().forward(z, context)

    decoder = CNNDecoder(**SMALL | {"multipliers": (1,), "attention": ()})
    to_latent = nn.Conv2d(8, 4, 1)
    tokenizer = Tokenizer(HierarchicalEncoder(**SMALL, num_maps=3), Head(16, 4), decoder, to_latent, nn.Conv2d(4, 8, 1))
    images = torch.rand(1, 3, 8, 8)
    tokenizer(images)
    expected = [to_latent(m) for m in tokenizer.encoder(images)]
    assert all(torch.equal(ours, m) for ours, m in zip((*seen["maps"], seen["z"]), expected, strict=True))


def test_positions_by_hand():
    """On a grid of 2 x 3, in front of a decoder that does nothing."""

    class Nothing(nn.Identity):
        dim, factor, last_layer = 1, 1, None

    decoder = PositionalDecoder(Nothing(), 1, 3)
    decoder.frequencies.weight.data = torch.tensor([0.5, 0.25]).reshape(1, 2, 1, 1)
    decoder.frequencies.bias.data = torch.tensor([0.1])
    decoder.rows.data = torch.tensor([[0.0], [10.0], [20.0]])
    decoder.columns.data = torch.tensor([[1.0], [2.0], [3.0]])
    x, y = torch.tensor([[-1.0, 0.0, 1.0]]), torch.tensor([[-1.0], [1.0]])
    rows = torch.tensor([[2.5], [17.5]])  # two rows' centres in places 0.25 and 1.75 of three
    expected = (0.5 * x + 0.25 * y + 0.1).sin() + rows + torch.tensor([[1.0, 2.0, 3.0]])
    torch.testing.assert_close(decoder(torch.zeros(1, 1, 2, 3))[0, 0], expected)


def test_interpolated_places():
    vectors = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert torch.equal(interpolate(vectors, 4), vectors.T)
    assert interpolate(vectors, 2)[0].tolist() == [0.5, 2.5]


@pytest.mark.parametrize("action, message", [
    (lambda: HierarchicalEncoder(**SMALL, num_maps=4), "num_maps=4 must be between 2 and 3, the number of levels"),
    (lambda: HierarchicalEncoder(**SMALL, num_maps=1), "num_maps=1 must be between 2 and 3"),
    (lambda: HierarchicalEncoder(**SMALL | {"attention": (3,)}), r"levels \[3\], but there are levels 0 to 2"),
    (lambda: PositionalDecoder(CNNDecoder(**SMALL), 16), "dim=16, but the decoder takes 8 channels"),
])  # fmt: skip
def test_bad_arguments(action, message):
    with pytest.raises(ValueError, match=message):
        action()
