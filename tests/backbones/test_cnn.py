"""VQGAN's networks: published sizes, and the outputs of the authors' own code."""

import re

import pytest
import torch

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.quantizers import VectorQuantizer


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("arguments, encoder, decoder", [
    ({}, 29_298_176, 42_449_795),  # VQGAN f16 and LlamaGen VQ-16
    ({"multipliers": (1, 1, 2, 4), "attention": (3,)}, 26_345_728, 38_316_163),  # VQGAN f8
    ({"multipliers": (1, 2, 2, 4), "attention": (3,)}, 28_559_232, 41_415_171),  # LlamaGen VQ-8
    # Latent diffusion, by hand: VQGAN f16 less 248 * 4,608 weights and 248 biases of the last encoder convolution, and
    # less 248 * 4,608 weights of the first decoder one; f8 as VQ-8 less 252 of them.
    ({"dim": 8}, 29_298_176 - 248 * 4609, 42_449_795 - 248 * 4608),
    ({"multipliers": (1, 2, 2, 4), "attention": (3,), "dim": 4}, 28_559_232 - 252 * 4609, 41_415_171 - 252 * 4608),
])  # fmt: skip
def test_published_parameter_counts(arguments, encoder, decoder):
    with torch.device("meta"):
        assert parameters(CNNEncoder(**arguments)) == encoder
        assert parameters(CNNDecoder(**arguments)) == decoder


@pytest.mark.parametrize("height, width", [(32, 32), (16, 40)])
def test_shapes(height, width):
    size = {"channels": 8, "multipliers": (1, 2, 2), "num_blocks": 1, "attention": (1,), "dim": 6}
    encoder, decoder = CNNEncoder(**size), CNNDecoder(**size)
    latent = encoder(torch.randn(2, 3, height, width))
    assert latent.shape == (2, 6, height // encoder.factor, width // encoder.factor)
    assert decoder(latent).shape == (2, 3, height, width)
    assert decoder.last_layer is decoder.conv_out.weight


def test_attention_beyond_the_last_level():
    with pytest.raises(ValueError, match=r"levels \[5\], but there are levels 0 to 4"):
        CNNEncoder(attention=(5,))


def from_llamagen(key):
    """LlamaGen's name of a tensor to ours."""
    for pattern, ours in (
        (r"\.conv_blocks\.(\d+)\.res\.", r".levels.\1.blocks."),
        (r"\.conv_blocks\.(\d+)\.attn\.", r".levels.\1.attentions."),
        (r"\.conv_blocks\.(\d+)\.(down|up)sample\.", r".levels.\1.resample."),
        (r"\.proj_out\.", ".out."),
        (r"\.nin_shortcut\.", ".shortcut."),
        (r"^quant_conv\.", "to_latent."),
        (r"^post_quant_conv\.", "from_latent."),
        (r"^quantize\.embedding\.weight$", "quantizer.table"),
    ):
        key = re.sub(pattern, ours, key)
    return key


def from_taming(key, levels):
    """taming-transformers' name of a tensor to ours; its decoder counts levels from full resolution."""
    key = re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.conv_blocks.{levels - 1 - int(m[1])}.", key)
    key = re.sub(r"\.down\.(\d+)\.", r".conv_blocks.\1.", key).replace(".block.", ".res.")
    for theirs, place in (("block_1", "0"), ("attn_1", "1"), ("block_2", "2")):
        key = key.replace(f".mid.{theirs}.", f".mid.{place}.")
    return from_llamagen(key)


def test_llamagen(family, close):
    weights, io = family("llamagen_vq")
    size = {"channels": 32, "multipliers": (2, 1), "num_blocks": 1, "attention": (1,), "dim": 32}
    tokenizer = Tokenizer(
        CNNEncoder(**size),
        VectorQuantizer(256, 8, cosine=True),
        CNNDecoder(**size),
        torch.nn.Conv2d(32, 8, 1),
        torch.nn.Conv2d(8, 32, 1),
    )
    weights.pop("quantize.codebook_used")
    check_whole_model(tokenizer, {from_llamagen(key): tensor for key, tensor in weights.items()}, io, close)


def test_taming(family, close):
    weights, io = family("taming_vqgan")
    size = {"channels": 32, "multipliers": (1, 2, 1, 1), "num_blocks": 1, "attention": (3,), "dim": 32}
    tokenizer = Tokenizer(
        CNNEncoder(**size),
        VectorQuantizer(96, 24),
        CNNDecoder(**size),
        torch.nn.Conv2d(32, 24, 1),
        torch.nn.Conv2d(24, 32, 1),
    )
    check_whole_model(tokenizer, {from_taming(key, 4): tensor for key, tensor in weights.items()}, io, close)


def test_latent_diffusion_without_attention(family, close):
    weights, io = family("ldm_vq")
    size = {"channels": 32, "multipliers": (2, 1), "num_blocks": 1, "attention": (), "dim": 3, "mid_attention": False}
    maps = torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 1)
    tokenizer = Tokenizer(CNNEncoder(**size), VectorQuantizer(150, 3), CNNDecoder(**size), *maps)
    check_whole_model(tokenizer, {from_taming(key, 2): tensor for key, tensor in weights.items()}, io, close)


def check_whole_model(tokenizer, weights, io, close):
    tokenizer.load_state_dict(weights)
    tokenizer.eval()
    with torch.no_grad():
        close(tokenizer.encode(io["images"]), io["latent"])
        reconstruction, quantized = tokenizer(io["images"])
        assert torch.equal(quantized.codes[:, 0], io["codes"])
        close(quantized.latent, io["quantized"])
        torch.testing.assert_close(reconstruction, io["reconstruction"], rtol=0, atol=1e-4)
        from_codes = tokenizer.decode(tokenizer.quantizer.lookup(quantized.codes))
        torch.testing.assert_close(from_codes, reconstruction, rtol=0, atol=0)
        folded = tokenizer.fold()
        assert torch.equal(folded.tokenize(io["images"])[:, 0], io["codes"])


def test_levels_that_keep_the_grid():
    """With two of four levels that halve, the third and the fourth of the encoder have the same grid."""
    size = {"channels": 8, "multipliers": (1, 2, 1, 2), "num_blocks": 1, "attention": (), "dim": 6, "halvings": 2}
    encoder, decoder = CNNEncoder(**size), CNNDecoder(**size)
    sides = []
    for level in (*encoder.levels, *decoder.levels):
        level.register_forward_hook(lambda *inputs: sides.append(inputs[2].shape[-1]))
    images = decoder(encoder(torch.zeros(1, 3, 16, 16)))
    assert encoder.factor == decoder.factor == 4 and images.shape == (1, 3, 16, 16)
    assert sides == [8, 4, 4, 4, 4, 8, 16, 16]
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=f"halvings={wrong} must be 0 to 3"):
            CNNEncoder(**size | {"halvings": wrong})
