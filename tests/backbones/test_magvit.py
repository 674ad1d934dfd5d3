"""The attention-free networks: published sizes, and the outputs of SimVQ's own code."""

import re

import pytest
import torch

from vistok import Tokenizer
from vistok.backbones import MagvitDecoder, MagvitEncoder
from vistok.backbones.adaptive_norm import AdaptiveGroupNorm
from vistok.backbones.magvit import DepthToSpace
from vistok.quantizers import SimVQ


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    with torch.device("meta"):
        encoder, decoder = MagvitEncoder(), MagvitDecoder()
    assert (parameters(encoder), len(encoder.state_dict())) == (24_282_496, 73)
    assert (parameters(decoder), len(decoder.state_dict())) == (39_851_907, 74)


@pytest.mark.parametrize("channels, multipliers, dim, encoder, decoder", [
    (128, (1, 1, 2, 2, 4), 18, 49_751_442, 65_376_387),  # Open-MAGVIT2, 256 pixels
    (128, (1, 2, 2, 4), 18, 48_422_162, 63_599_491),  # 128 pixels
    (128, (1, 1, 2, 2, 4), 14, 49_749_390, 65_344_643),
    (256, (1, 2, 2, 4), 64, 193_655_360, 254_750_467),  # WeTok, ratio 24
])  # fmt: skip
def test_published_counts_with_adaptive_norms(channels, multipliers, dim, encoder, decoder):
    size = {"channels": channels, "multipliers": multipliers, "num_blocks": 4, "dim": dim}
    with torch.device("meta"):
        assert parameters(MagvitEncoder(**size)) == encoder
        assert parameters(MagvitDecoder(**size, adaptive=True)) == decoder


def test_adaptive_norm_by_hand():
    norm = AdaptiveGroupNorm(2, 1)  # two groups of one channel
    norm.gamma.weight.data, norm.gamma.bias.data = torch.tensor([[2.0], [0.0]]), torch.tensor([0.0, 1.0])
    norm.beta.weight.data, norm.beta.bias.data = torch.tensor([[0.0], [3.0]]), torch.tensor([0.5, 0.0])
    latent = torch.tensor([[[[1.0, 4.0, 7.0]]]])  # mean 4, unbiased variance 9
    x = torch.tensor([[[[1.0, 3.0]], [[5.0, 9.0]]]])  # each channel becomes -1, 1
    expected = torch.tensor([[[[-5.5, 6.5]], [[11.0, 13.0]]]])  # times 6, plus 0.5; times 1, plus 12
    torch.testing.assert_close(norm(x, latent), expected, rtol=0, atol=1e-4)
    assert norm(x, latent[..., :1]).isfinite().all()  # a latent of one position


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("height, width", [(32, 32), (16, 40)])
def test_shapes(height, width, adaptive):
    size = {"channels": 8, "multipliers": (1, 2, 2), "num_blocks": 1, "dim": 6}
    encoder, decoder = MagvitEncoder(**size), MagvitDecoder(**size, adaptive=adaptive)
    latent = encoder(torch.randn(2, 3, height, width))
    assert encoder.factor == decoder.factor == 4
    assert latent.shape == (2, 6, height // 4, width // 4)
    assert decoder(latent).shape == (2, 3, height, width)
    assert decoder.last_layer is decoder.conv_out.weight


def test_depth_to_space_puts_the_place_before_the_channel():
    layer = DepthToSpace(2)
    torch.nn.init.zeros_(layer.conv.weight)
    layer.conv.bias.data = torch.arange(8.0)
    folded = layer(torch.zeros(1, 2, 1, 1))
    assert folded.tolist() == [[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]]


def from_simvq(key, levels):
    """SimVQ's name of a tensor to ours; its decoder counts levels from full resolution."""
    key = re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.levels.{levels - 1 - int(m[1])}.", key)
    for pattern, ours in (
        (r"\.down\.(\d+)\.", r".levels.\1."),
        (r"\.block\.", ".blocks."),
        (r"\.downsample\.", ".resample."),
        (r"\.upsample\.conv1\.", ".resample.conv."),
        (r"\.nin_shortcut\.", ".shortcut."),
        (r"\.mid_block\.", ".mid."),
        (r"^quantize\.embedding\.weight$", "quantizer.basis"),
        (r"^quantize\.embedding_proj\.", "quantizer.projection."),
    ):
        key = re.sub(pattern, ours, key)
    return key


@pytest.mark.parametrize("averaged", [True, False])
def test_simvq(family, close, averaged):
    """A whole model at the weights that its authors evaluate, averages of what is trained, and at the raw ones."""
    weights, io = family("simvq")
    averages = {key.removeprefix("model_ema."): t for key, t in weights.items() if key.startswith("model_ema.")}
    raw = {key: t for key, t in weights.items() if not key.startswith("model_ema.")}
    used = {key: averages.get(key.replace(".", ""), t) if averaged else t for key, t in raw.items()}
    size = {"channels": 32, "multipliers": (1, 1), "num_blocks": 1, "dim": 32}
    tokenizer = Tokenizer(MagvitEncoder(**size), SimVQ(128, 32), MagvitDecoder(**size)).eval()
    tokenizer.load_state_dict({from_simvq(key, 2): tensor for key, tensor in used.items()})
    prefix = "" if averaged else "raw."
    with torch.no_grad():
        for evaluated in (tokenizer, tokenizer.fold()):
            reconstruction, quantized = evaluated(io["images"])
            assert torch.equal(quantized.codes[:, 0], io[f"{prefix}codes"])
            close(quantized.latent, io[f"{prefix}quantized"])
            torch.testing.assert_close(reconstruction, io[f"{prefix}reconstruction"], rtol=0, atol=1e-4)
        if averaged:
            close(tokenizer.encode(io["images"]), io["latent"])
            decoded = tokenizer.decode(tokenizer.quantizer.lookup(io["codes"][:, None]))
            torch.testing.assert_close(decoded, io["decoded_from_projected_codes"], rtol=0, atol=1e-4)
