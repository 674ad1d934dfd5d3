"""transformers' own JanusVQVAE does with an exported folder what the tokenizer does, on both of its paths."""

import pytest
import safetensors.torch
import torch

import vistok
from vistok.formats.exporters import to_janus
from vistok.formats.exporters.parity import ParityError
from vistok.quantizers import FactorizedQuantizer, JanusQuantizer, SimVQ

transformers = pytest.importorskip("transformers")


@torch.no_grad()
def in_transformers(folder, images):
    """Codes (b, 1, h, w) of images, images decoded from them, and the decoded latents of encoding."""
    model = transformers.JanusVQVAE.from_pretrained(folder).eval()
    encoded = model.encode(images, return_dict=True)
    side = model.config.num_patches
    codes = encoded.image_tokens.view(len(images), 1, side, side)
    of_latent = model.decoder(model.post_quant_conv(encoded.quantized_last_hidden_state))
    return codes, model.decode(codes.flatten(1)), of_latent


def test_both_paths(make_vqgan, uneven, tmp_path):
    tokenizer = make_vqgan(uneven(cosine=True))
    parity = to_janus.save(tokenizer, tmp_path / "model", image_size=24)
    images = torch.rand(2, 3, 24, 24) * 2 - 1
    codes, decoded, of_latent = in_transformers(tmp_path / "model", images)
    ours = tokenizer(images)
    assert torch.equal(codes, ours.quantized.codes) and len(codes.unique()) > 10
    torch.testing.assert_close(decoded, ours.reconstruction, rtol=0, atol=1e-5)
    torch.testing.assert_close(of_latent, ours.reconstruction, rtol=0, atol=1e-5)
    assert parity.sizes == ((24, 24),) and parity.near_ties == 0


def test_a_deeper_network(make_vqgan, uneven, tmp_path):
    tokenizer = make_vqgan(uneven(cosine=True), multipliers=(2, 1, 2), attention=(2,), num_blocks=2)
    to_janus.save(tokenizer, tmp_path / "model", image_size=16)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    codes, decoded, _ = in_transformers(tmp_path / "model", images)
    assert torch.equal(codes, tokenizer.tokenize(images))
    torch.testing.assert_close(decoded, tokenizer(images).reconstruction, rtol=0, atol=1e-5)


def test_the_golden_model(family, tmp_path, close):
    """Its raw table, in which transformers chooses codes that it decodes at unit length, goes back as it came."""
    weights, io = family("janus_vqvae")
    safetensors.torch.save_file(weights, tmp_path / "golden.safetensors")
    to_janus.save(vistok.load(tmp_path / "golden.safetensors"), tmp_path / "model", image_size=24)
    exported = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    assert exported.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in exported.items())
    codes, decoded, _ = in_transformers(tmp_path / "model", io["images"])
    assert torch.equal(codes[:, 0], io["codes"])
    close(decoded, io["decoded_from_codes"])


def test_llamagen_to_janus(family, tmp_path, close):
    weights, io = family("llamagen_vq")
    safetensors.torch.save_file(weights, tmp_path / "golden.safetensors")
    to_janus.save(vistok.load(tmp_path / "golden.safetensors"), tmp_path / "model", image_size=24)
    codes, decoded, of_latent = in_transformers(tmp_path / "model", io["images"])
    assert torch.equal(codes[:, 0], io["codes"])
    close(decoded, io["reconstruction"])
    close(of_latent, io["reconstruction"])


def test_codewords_of_other_lengths(make_vqgan, uneven, tmp_path):
    for head in (uneven(), SimVQ(64, 4)):
        with pytest.raises(
            ValueError, match="codewords of other than unit length: it would decode them at unit length"
        ):
            to_janus.save(make_vqgan(head), tmp_path / "model", image_size=16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments, message", [
    ({"attention": ()}, "attention=.., only for the last level, 1; the targets onnx, torch and folder take it"),
    ({"channels": 8}, "norms of 8, 16 groups"),
    ({"patch": 2}, "patch=2, only for 1"),
])  # fmt: skip
def test_networks_that_do_not_fit(make_vqgan, uneven, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        to_janus.save(make_vqgan(uneven(cosine=True), **arguments), tmp_path / "model", image_size=16)
    assert not list(tmp_path.iterdir())


def test_other_arguments_that_do_not_fit(make_vqgan, uneven, tmp_path):
    with pytest.raises(ValueError, match="image_size=15 is not a multiple of the tokenizer's factor 2"):
        to_janus.save(make_vqgan(uneven(cosine=True)), tmp_path / "model", image_size=15)
    heads = FactorizedQuantizer([SimVQ(8, 2), SimVQ(8, 2)])
    with pytest.raises(ValueError, match="a FactorizedQuantizer: a product of 2 codebooks"):
        to_janus.save(make_vqgan(heads), tmp_path / "model", image_size=16)


def test_a_wrong_file_is_not_finished(make_vqgan, uneven, tmp_path, monkeypatch):
    monkeypatch.setattr(to_janus.plain, "codewords_are_unit", lambda tokenizer: True)
    with pytest.raises(ParityError, match="decoded images differ"):
        to_janus.save(make_vqgan(uneven()), tmp_path / "model", image_size=16)
    assert not list(tmp_path.iterdir())


def test_a_table_of_two_kinds_comes_back(make_vqgan, tmp_path):
    tokenizer = make_vqgan(JanusQuantizer(64, 4))
    to_janus.save(tokenizer, tmp_path / "model", image_size=16)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(vistok.load(tmp_path / "model").tokenize(images), tokenizer.tokenize(images))
