"""diffusers' own VQModel does with an exported folder what the tokenizer does."""

import json

import pytest
import safetensors.torch
import torch
from torch import nn

import vistok
from vistok.backbones import ViTEncoder
from vistok.formats.exporters import to_diffusers
from vistok.formats.exporters.parity import ParityError
from vistok.quantizers import (
    DynamicQuantizer,
    FactorizedQuantizer,
    FeatureRouter,
    JanusQuantizer,
    ResidualQuantizer,
    SimVQ,
    VQBridge,
)

diffusers = pytest.importorskip("diffusers")


def in_diffusers(folder, images):
    """Codes of images, their reconstruction, and images decoded from the codes."""
    model = diffusers.VQModel.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    with torch.no_grad():
        latents = model.encode(images).latents
        codes = model.quantize(latents)[2][2].view(len(latents), 1, *latents.shape[2:])
        shape = (len(codes), *codes.shape[2:], latents.shape[1])
        decoded = model.decode(codes.flatten(), force_not_quantize=True, shape=shape).sample
        return codes, model(images).sample, decoded


@pytest.mark.parametrize("arguments", [
    {},
    {"attention": (0, 1), "num_blocks": 2},
    {"attention": (), "mid_attention": False},
    {"channels": 12, "multipliers": (1, 2, 2), "norm_groups": 4},
])  # fmt: skip
def test_networks(make_vqgan, uneven, tmp_path, arguments):
    tokenizer = make_vqgan(uneven(), **arguments)
    parity = to_diffusers.save(tokenizer, tmp_path / "model")
    images = torch.rand(2, 3, 24, 16) * 2 - 1
    codes, reconstruction, decoded = in_diffusers(tmp_path / "model", images)
    ours = tokenizer(images)
    assert torch.equal(codes, ours.quantized.codes) and len(codes.unique()) > 10
    torch.testing.assert_close(decoded, ours.reconstruction, rtol=0, atol=1e-5)
    torch.testing.assert_close(reconstruction, ours.reconstruction, rtol=0, atol=1e-5)
    assert parity.near_ties == 0 and parity.pixels < 1e-5


@pytest.mark.parametrize("head", ["cosine", "simvq", "vqbridge"])
def test_heads_fold_into_a_table(make_vqgan, uneven, tmp_path, head):
    quantizer = {
        "cosine": lambda: uneven(cosine=True),
        "simvq": lambda: SimVQ(64, 4),
        "vqbridge": lambda: VQBridge(64, 4, "XS", depth=1),
    }[head]()
    if head == "vqbridge":
        nn.init.normal_(quantizer.bridge.recover.weight, std=0.1)
        nn.init.normal_(quantizer.basis)
    tokenizer = make_vqgan(quantizer)
    to_diffusers.save(tokenizer, tmp_path / "model")
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    codes, _, decoded = in_diffusers(tmp_path / "model", images)
    ours = tokenizer(images)
    assert torch.equal(codes, ours.quantized.codes) and len(codes.unique()) > 5
    torch.testing.assert_close(decoded, ours.reconstruction, rtol=0, atol=1e-5)


def test_maps_that_are_not_there(make_vqgan, uneven, tmp_path):
    whole = make_vqgan(uneven(dim=16))
    tokenizer = vistok.Tokenizer(whole.encoder, whole.quantizer, whole.decoder).eval()
    to_diffusers.save(tokenizer, tmp_path / "model")
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    codes, _, decoded = in_diffusers(tmp_path / "model", images)
    assert torch.equal(codes, tokenizer.tokenize(images))
    torch.testing.assert_close(decoded, tokenizer(images).reconstruction, rtol=0, atol=1e-5)


def test_it_comes_back(make_vqgan, uneven, tmp_path):
    tokenizer = make_vqgan(uneven(), channels=12, norm_groups=4)
    to_diffusers.save(tokenizer, tmp_path / "model")
    back = vistok.load(tmp_path / "model")
    state = tokenizer.state_dict()
    assert back.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.state_dict().items())


def test_the_golden_model(family, tmp_path, close):
    weights, io = family("diffusers_vqmodel")
    safetensors.torch.save_file(weights, tmp_path / "golden.safetensors")
    tokenizer = vistok.load(tmp_path / "golden.safetensors", config={"norm_num_groups": 16})
    to_diffusers.save(tokenizer, tmp_path / "model")
    exported = safetensors.torch.load_file(tmp_path / "model" / "diffusion_pytorch_model.safetensors")
    assert exported.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in exported.items())
    codes, _, decoded = in_diffusers(tmp_path / "model", io["images"])
    assert torch.equal(codes[:, 0], io["codes"])
    close(decoded, io["reconstruction"])


def vit(tokenizer):
    tokenizer.encoder = ViTEncoder(dim=16, depth=1, num_heads=1, head_dim=16, patch=2, image_size=16)


def patched(tokenizer):
    tokenizer.encoder.patch = 2


def pixels(tokenizer):
    tokenizer.pixels = vistok.PixelMap(0.5, 0.5)


def wide_map(tokenizer):
    tokenizer.to_latent = nn.Conv2d(16, 4, 3, padding=1)


def factorized(tokenizer):
    tokenizer.quantizer = FactorizedQuantizer([SimVQ(8, 2), SimVQ(8, 2)])


def in_depths(tokenizer):
    tokenizer.quantizer = ResidualQuantizer(SimVQ(8, 4), depth=4)


def dynamic(tokenizer):
    tokenizer.quantizer = DynamicQuantizer(SimVQ(8, 4), FeatureRouter(4, groups=2))


def janus(tokenizer):
    tokenizer.quantizer = JanusQuantizer(8, 4)


@pytest.mark.parametrize("change, message", [
    (vit, "cannot represent a ViTEncoder, only for VQGAN's CNNEncoder; the targets onnx, torch and folder take it"),
    (patched, "patch=2, only for 1"),
    (pixels, "PixelMap.scale=0.5, shift=0.5., only for networks on pixels"),
    (wide_map, "a to_latent of kernel_size=.3, 3."),
    (factorized, "a FactorizedQuantizer: a product of 2 codebooks is not a single table"),
    (in_depths, "a ResidualQuantizer: a sum of 4 codebooks is not a single table"),
    (dynamic, "a DynamicQuantizer: a dynamic head is no plain table"),
    (janus, "a JanusQuantizer, which chooses codes in one table and decodes another"),
])  # fmt: skip
def test_what_does_not_fit(make_vqgan, uneven, tmp_path, change, message):
    tokenizer = make_vqgan(uneven())
    change(tokenizer)
    with pytest.raises(ValueError, match=message):
        to_diffusers.save(tokenizer, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments, message", [
    ({"channels": 8, "norm_groups": 32}, "norms of 8, 16 groups, only for one number"),
    ({"multipliers": (2, 2)}, "multipliers=.2, 2., only for those that begin with 1"),
])  # fmt: skip
def test_networks_that_do_not_fit(make_vqgan, uneven, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        to_diffusers.save(make_vqgan(uneven(), **arguments), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def spoil_codebook(state):
    state["quantize.embedding.weight"] = state["quantize.embedding.weight"].flip(0)


def spoil_decoder(state):
    state["decoder.conv_out.bias"] = state["decoder.conv_out.bias"] + 1e-3


def spoil_encoder(state):
    state["quant_conv.bias"] = state["quant_conv.bias"] + 1e-3


def nan(state):
    state["decoder.conv_out.bias"] = state["decoder.conv_out.bias"] * float("nan")


@pytest.mark.parametrize("spoil, message", [
    (spoil_codebook, "codes of images of 8x16 differ"),
    (spoil_decoder, "decoded images differ by"),
    (spoil_encoder, "latents differ by"),
    (nan, "decoded images differ by nan"),
])  # fmt: skip
def test_a_wrong_file_is_not_finished(make_vqgan, uneven, tmp_path, monkeypatch, spoil, message):
    original = to_diffusers.to_theirs

    def spoiled(*arguments):
        state = original(*arguments)
        spoil(state)
        return state

    monkeypatch.setattr(to_diffusers, "to_theirs", spoiled)
    with pytest.raises(ParityError, match=message):
        to_diffusers.save(make_vqgan(uneven()), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(make_vqgan, uneven, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match="exists already and is not overwritten"):
        to_diffusers.save(make_vqgan(uneven()), tmp_path / "model")
    assert not list((tmp_path / "model").iterdir())


def test_the_config_says_what_diffusers_needs(make_vqgan, uneven, tmp_path):
    to_diffusers.save(make_vqgan(uneven(), multipliers=(1, 2, 2), attention=(2,)), tmp_path / "model", image_size=96)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["block_out_channels"] == [32, 64, 64] and config["sample_size"] == 96
    assert config["down_block_types"] == ["DownEncoderBlock2D"] * 2 + ["AttnDownEncoderBlock2D"]
    assert config["up_block_types"] == ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 2
    assert config["lookup_from_codebook"] and config["num_vq_embeddings"] == 128 and config["vq_embed_dim"] == 4
