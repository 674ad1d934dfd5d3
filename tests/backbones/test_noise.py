"""Noise of generative decoders: repeatable in evaluation, given, or random in training."""

import pytest
import torch

import vistok
from vistok import Tokenizer
from vistok.backbones import MagvitDecoder, MagvitEncoder, PositionalDecoder, noise
from vistok.formats import native
from vistok.formats.exporters import graphs
from vistok.quantizers import BinaryQuantizer
from vistok.quantizers.base import Context

SIZE = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "dim": 6}


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    decoder = MagvitDecoder(**SIZE, adaptive=True, generative=True)
    return Tokenizer(MagvitEncoder(**SIZE), BinaryQuantizer(6, spherical=False, num_codebooks=2), decoder).eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_what_is_drawn():
    latent = torch.zeros(2, 6, 4, 5)
    before = torch.get_rng_state()
    own = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise.drawn(latent, None, training=False), torch.stack([own, own]))
    expected = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(noise.drawn(latent, torch.Generator().manual_seed(3), training=True), expected)
    assert torch.equal(noise.drawn(latent.bfloat16(), expected, training=False), expected.bfloat16())
    assert torch.equal(torch.get_rng_state(), before)  # which training goes on with after a validation
    torch.manual_seed(5)
    expected = torch.randn(2, 6, 4, 5)
    torch.manual_seed(5)
    assert torch.equal(noise.drawn(latent, None, training=True), expected)
    with pytest.raises(ValueError, match=r"context.noise has the sizes \[1, 6, 4, 5\], but the latent \[2, 6, 4, 5\]"):
        noise.drawn(latent, torch.zeros(1, 6, 4, 5), training=False)


def test_noise_is_the_second_half_of_the_first_convolution(tokenizer):
    """Normalization reads the latent alone, so noise of zeros leaves the decoder without noise."""
    latent, own = torch.randn(2, 6, 4, 6), torch.randn(2, 6, 4, 6)
    state = tokenizer.decoder.state_dict()
    plain = MagvitDecoder(**SIZE, adaptive=True).eval()
    plain.load_state_dict(state | {"conv_in.weight": state["conv_in.weight"][:, :6]})
    decoded = tokenizer.decode(latent, context=Context(noise=torch.zeros_like(own)))
    torch.testing.assert_close(decoded, plain(latent), rtol=0, atol=1e-5)
    with torch.no_grad():
        tokenizer.decoder.conv_in.weight[:, 6:] = 0
    torch.testing.assert_close(tokenizer.decode(latent, context=Context(noise=own)), plain(latent), rtol=0, atol=1e-5)


def test_evaluation_repeats(tokenizer, images):
    codes = tokenizer.tokenize(images)
    decoded = tokenizer.detokenize(codes)
    assert torch.equal(tokenizer.detokenize(codes), decoded)
    assert torch.equal(tokenizer.reconstruct(images)[0].clamp(-1, 1), decoded)
    assert torch.equal(tokenizer(images).reconstruction.clamp(-1, 1), decoded)
    assert torch.equal(tokenizer.fold().detokenize(codes), decoded)
    torch.testing.assert_close(tokenizer.detokenize(codes[1:2]), decoded[1:2], rtol=0, atol=1e-6)  # whatever the batch
    first, second = (
        tokenizer.detokenize(codes, context=Context(noise=torch.Generator().manual_seed(i))) for i in (1, 2)
    )
    again = tokenizer.reconstruct(images, Context(noise=torch.Generator().manual_seed(1)))[0].clamp(-1, 1)
    assert torch.equal(first, again) and not torch.equal(first, second) and not torch.equal(first, decoded)
    tokenizer.train()
    assert not torch.equal(tokenizer(images).reconstruction, tokenizer(images).reconstruction)


def test_folder_and_graphs(tokenizer, images, tmp_path):
    codes = tokenizer.tokenize(images)
    loaded = vistok.load(native.save(tokenizer, tmp_path / "ours"))
    assert loaded.decoder.generative and torch.equal(loaded.detokenize(codes), tokenizer.detokenize(codes))
    with pytest.raises(
        ValueError, match="a MagvitDecoder that reads noise beside the latent, .* has no graph; the target"
    ):
        graphs.save_torch(tokenizer, tmp_path / "graphs")


def test_a_decoder_around_it(tokenizer):
    around = PositionalDecoder(tokenizer.decoder, 6, 4).eval()
    assert around.context_fields == {"noise"}
    latent, own = torch.zeros(1, 6, 4, 4), torch.randn(1, 6, 4, 4)
    assert not torch.equal(around(latent, context=Context(noise=own)), around(latent))
