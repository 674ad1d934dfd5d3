"""Infinity's autoencoder: the authors' bits and images, other sizes, scales, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import vistok
from vistok import Tokenizer, configuration
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.formats import families, native
from vistok.formats.exporters import to_published
from vistok.formats.importers import from_infinity
from vistok.formats.importers.hyperparameters import Unknown
from vistok.formats.importers.key_map import to_theirs
from vistok.quantizers import BinaryQuantizer, MultiScaleQuantizer, VectorQuantizer
from vistok.training import run

from ...conftest import SHARED

SCALES = [[1, 1, 1], [1, 2, 2], [1, 4, 4]]
DYNAMIC = {"schedule_mode": "dynamic"}


def bits_of(codes, bits):
    """Bits (b, n, bits) of codes (b, k, 1, n): the first channel is the highest bit of the first code."""
    each = bits // codes.shape[1]
    places = torch.arange(each - 1, -1, -1)
    return ((codes[:, :, 0, :, None] >> places) & 1).transpose(1, 2).flatten(2)


def test_the_authors_bits_and_images(family, tmp_path):
    weights, io = family("infinity_bsq")
    assert families.family_of(weights) == "infinity"
    config = json.loads((SHARED / "golden" / "infinity_bsq.json").read_text())["config"]
    torch.save({"vae": weights}, tmp_path / "vae.pth")
    save_file(weights, tmp_path / "vae.safetensors")
    for file, arguments in (("vae.pth", {"config": {"schedule": [1, 2, 3, 5, 8]}}),
                            ("vae.safetensors", {"config": config, "family": "infinity_bsq"})):  # fmt: skip
        tokenizer = vistok.load(tmp_path / file, **arguments)
        with torch.no_grad():
            reconstruction, quantized = tokenizer(io["images"])
        assert quantized.codes.shape == (4, 1, 1, 103)
        assert torch.equal(bits_of(quantized.codes, 16), io["bits_flat"])
        torch.testing.assert_close(reconstruction, io["decoder_output"], rtol=0, atol=2e-5)
        decoded = tokenizer.detokenize(quantized.codes)
        torch.testing.assert_close(decoded, io["decoded_from_codes"], rtol=0, atol=2e-5)
        first = tokenizer.detokenize(quantized.codes[..., :14], (32, 32))  # of three scales
        torch.testing.assert_close(first, io["decoded_first3"], rtol=0, atol=2e-5)
    again = vistok.load(native.save(tokenizer, tmp_path / "ours"))
    assert torch.equal(again.tokenize(io["images"]), quantized.codes)
    assert torch.equal(again.detokenize(quantized.codes), decoded)
    assert torch.equal(tokenizer.fold().tokenize(io["images"]), quantized.codes)


def make(
    bits=16, down=(1, 2, 4), up=(1, 1, 2), channels=32, schedule="infinity_dynamic", maps=False, blocks=2, **arguments
):
    """An autoencoder whose encoder and decoder have different levels and depths, with Infinity's head."""
    torch.manual_seed(0)
    dim = 12 if maps else bits
    size = {"attention": (), "dim": dim, "mid_attention": False} | arguments
    head = BinaryQuantizer(bits, temperature=0.01, num_codebooks=-(-bits // 62))
    head = MultiScaleQuantizer(head, schedule, phi=0, upsampling="bilinear", losses="steps", estimate="steps")
    around = (nn.Conv2d(dim, bits, 1), nn.Conv2d(bits, dim, 1)) if maps else ()
    return Tokenizer(
        CNNEncoder(channels, down, 1, **size), head, CNNDecoder(channels, up, blocks, **size), *around
    ).eval()


def published(tokenizer):
    """A tokenizer's tensors as Infinity's code saves them."""
    theirs = to_theirs(from_infinity.RULES, tokenizer.state_dict(), len(tokenizer.decoder.levels))
    mask = 2 ** torch.arange(15, -1, -1)
    theirs |= {"quantizer.lfq.mask": mask, "quantize.lfq.mask": mask.clone()}
    return {name: tensor.contiguous() for name, tensor in theirs.items()}


@pytest.mark.parametrize("arguments, config", [
    ({"bits": 32}, DYNAMIC),
    ({"bits": 64}, DYNAMIC),
    ({"bits": 24, "schedule": "infinity"}, {"schedule_mode": "original"}),
    ({"down": (3, 1), "up": (2, 1), "schedule": "infinity_patches"}, {"apply_spatial_patchify": 1}),
    ({"mid_attention": True, "schedule": [(1, 1), (3, 2), (8, 8)]}, {"schedule": [1, [3, 2], [1, 8, 8]]}),
    ({"halvings": 1}, DYNAMIC),
    ({"channels": 24, "down": (1, 2), "up": (3, 1), "norm_groups": 24}, DYNAMIC),
    ({"maps": True}, DYNAMIC),
])  # fmt: skip
def test_other_sizes(tmp_path, arguments, config):
    tokenizer = make(**arguments)
    torch.save({"vae": published(tokenizer)}, tmp_path / "vae.pth")
    loaded = vistok.load(tmp_path / "vae.pth", config=config)
    assert native.describe(loaded) == native.describe(tokenizer)
    side = 8 * tokenizer.factor
    images = torch.rand(2, 3, side, side) * 2 - 1
    codes = tokenizer.tokenize(images)
    assert torch.equal(loaded.tokenize(images), codes) and len(codes.unique()) > 1
    assert torch.equal(loaded.detokenize(codes, (side, side)), tokenizer.detokenize(codes, (side, side)))
    bits = tokenizer.quantizer.dim
    latent = tokenizer.encode(images).mean((2, 3))  # what the coarsest map quantizes
    if tokenizer.quantizer.layout(8, 8).grids[0] == (1, 1):
        assert torch.equal(bits_of(codes, bits)[:, 0], (latent > 0).long())


def test_the_golden_file_comes_back(family, tmp_path):
    weights, io = family("infinity_bsq")
    save_file(weights, tmp_path / "vae.safetensors")
    tokenizer = vistok.load(tmp_path / "vae.safetensors", config={"schedule": [1, 2, 3, 5, 8]})
    to_published.save(tokenizer, tmp_path / "out", family="infinity")
    again = torch.load(tmp_path / "out" / "vae.pth")["vae"]
    assert again.keys() == weights.keys()
    assert all(again[name].dtype == own.dtype and torch.equal(again[name], own) for name, own in weights.items())


@pytest.mark.parametrize("arguments, expected", [
    ({"bits": 64}, {"codebook_size": 2**64, "codebook_dim": 64, "patch_size": 4, "schedule_mode": "dynamic"}),
    ({"halvings": 1, "schedule": "infinity"}, {"patch_size": 2, "schedule_mode": "original", "cnn_attention": "no"}),
    ({"mid_attention": True, "schedule": [(1, 1), (4, 4), (8, 8)]}, {"cnn_attention": "yes",
                                                      "schedule": [[1, 1, 1], [1, 4, 4], [1, 8, 8]]}),
    ({"maps": True, "down": (3, 1), "up": (2, 1)}, {"codebook_size": 2**16, "codebook_dim": 12,
                                                    "encoder_ch_mult": [3, 1], "decoder_ch_mult": [2, 1]}),
    ({"channels": 24, "down": (1, 2), "up": (3, 1), "norm_groups": 24, "schedule": "infinity_patches"},
     {"base_ch": 24, "num_res_blocks": 1, "schedule_mode": "dynamic", "apply_spatial_patchify": 1}),
])  # fmt: skip
def test_written(tmp_path, arguments, expected):
    """The authors' class loads these files without a missing or further name (tried with their code)."""
    tokenizer = make(blocks=1, **arguments)
    to_published.save(tokenizer, tmp_path / "out", family="infinity")
    settings = json.loads((tmp_path / "out" / "vae.json").read_text())
    assert settings | expected == settings and settings["new_quant"] and not settings["use_vae"]
    theirs = torch.load(tmp_path / "out" / "vae.pth")["vae"]
    assert theirs["quantize.lfq.mask"][-3:].tolist() == [4, 2, 1] and len(theirs["quantize.lfq.mask"]) in (16, 64)
    assert ("quantize.project_in.weight" in theirs) == ("maps" in arguments)
    loaded = vistok.load(tmp_path / "out" / "vae.pth", config=settings)
    assert native.describe(loaded) == native.describe(tokenizer)
    assert native.describe(vistok.load(tmp_path / "out")) == native.describe(tokenizer)  # without arguments


@pytest.mark.parametrize("arguments, change, message", [
    ({"blocks": 2}, {}, "num_blocks=1 in the encoder, 2 in the decoder"),
    ({"attention": (1,)}, {}, r"patch=1, attention=\(1,\), only 1 and no levels"),
    ({"norm_groups": 8}, {}, "8 groups of 32 channels, only 32 groups, or 24 of channels that 32 does not divide"),
    ({"schedule": "var"}, {}, "schedule='var', only for a list or infinity_dynamic, infinity, infinity_patches"),
    ({}, {"head": BinaryQuantizer(16, num_codebooks=2)}, "num_codebooks=2, only for 1, with which 16 bits are read"),
    ({}, {"head": BinaryQuantizer(16, spherical=False)}, "only for a MultiScaleQuantizer of a spherical Binary"),
    ({}, {"head": VectorQuantizer(8, 16)}, "a MultiScaleQuantizer of VectorQuantizer, only for"),
    ({}, {"upsampling": "bicubic"}, "upsampling='bicubic', only for 'bilinear'"),
    ({}, {"factors": 0.5}, "factors=0.5, only for 1"),
])  # fmt: skip
def test_what_is_not_written(tmp_path, arguments, change, message):
    tokenizer = make(**{"blocks": 1} | arguments)
    for name, value in change.items():
        setattr(tokenizer.quantizer, name, value)
    with pytest.raises(ValueError, match=f"Infinity's layout cannot represent .*{message}"):
        to_published.save(tokenizer, tmp_path / "out", family="infinity")
    assert not (tmp_path / "out").exists()


def test_averaged_weights(tmp_path):
    """The authors' loader reads ``vae``, which is weights='raw'."""
    theirs = published(make())
    other = {name: t + 1 for name, t in theirs.items()}
    torch.save({"vae": theirs, "ema": other}, tmp_path / "vae.pth")
    bias = "decoder.conv_out.conv.bias"
    for weights, expected in (("raw", theirs[bias]), ("ema", other[bias])):
        loaded = vistok.load(tmp_path / "vae.pth", config=DYNAMIC, weights=weights)
        assert torch.equal(loaded.decoder.conv_out.bias, expected)


@pytest.mark.parametrize("widths, config, expected", [
    ((128, 256, 512, 512, 512), {}, "infinity_dynamic"),
    ((128, 256, 512, 512), {}, "infinity_patches"),
    ((128, 256, 512, 512), {"schedule_mode": "dynamic"}, "infinity_dynamic"),
    ((128, 256, 512, 512, 512), {"schedule_mode": "original"}, "infinity"),
    ((128, 256), {"apply_spatial_patchify": True}, "infinity_patches"),
    ((128, 256), {"apply_spatial_patchify": 0, "schedule_mode": "dynamic"}, "infinity_dynamic"),
    ((128, 256, 512, 512), {"schedule": SCALES}, [(1, 1), (2, 2), (4, 4)]),
])  # fmt: skip
def test_scales(widths, config, expected):
    assert from_infinity.schedule(config, widths) == expected


@pytest.mark.parametrize("arguments, config, message", [
    ({}, {}, "its keys do not determine the scales: give config=.*'dynamic'.*'original'.*'schedule'"),
    ({}, {"schedule_mode": "dense"}, "schedule_mode='dense' cannot be imported, only dynamic or original; or give"),
    ({}, {"schedule_mode": "original", "apply_spatial_patchify": 1}, "schedule_mode='original' cannot"),
    ({}, {"schedule": []}, r"schedule must be a list of 1 to 100 scales, not \[\]"),
    ({}, {"schedule": "all"}, "schedule must be a list of 1 to 100 scales, not 'all'"),
    ({}, {"schedule": [1, [2, 8, 8]]}, r"must be a side, \(h, w\) or \(1, h, w\), not \[2, 8, 8\]"),
    ({}, {"schedule": [4, 2]}, "must go from coarse to fine"),
    ({}, DYNAMIC | {"use_decay_factor": True}, "use_decay_factor=True cannot be imported, only False"),
    ({"channels": 48}, DYNAMIC, r"widths \[48, 96, 192\] are not all multiples of 32"),
    ({"channels": 20}, DYNAMIC, r"widths \[20, 40, 80\] are not all multiples of 32"),
])  # fmt: skip
def test_refusals(tmp_path, arguments, config, message):
    torch.save({"vae": published(make(**arguments))}, tmp_path / "vae.pth")
    with pytest.raises(ValueError, match=message) as caught:
        vistok.load(tmp_path / "vae.pth", config=config)
    assert isinstance(caught.value, Unknown) == (not config)


SMALL = ["trainer=debug", "backbone=cnn_f16", "quantizer=multiscale_bsq", "quantizer.schedule=infinity_dynamic",
         "tokenizer.to_latent=null", "tokenizer.from_latent=null", "backbone.encoder.channels=32", "loss=l1",
         "backbone.encoder.multipliers=[1,2]", "backbone.encoder.attention=[]", "data.image_size=16",
         "backbone.encoder.mid_attention=false", "backbone.encoder.dim=${model.latent_dim}", "model.latent_dim=32",
         "optimizer.lr=0", "model.family_config={schedule_mode: dynamic}"]  # fmt: skip


def test_training_goes_on(compose, tmp_path):
    tokenizer = configuration.instantiate(compose("train", *SMALL).tokenizer).eval()
    torch.save({"vae": published(tokenizer)}, tmp_path / "vae.pth")
    overrides = [*SMALL, f"model.init={tmp_path}/vae.pth", f"run.dir={tmp_path}/run"]
    run.train(compose("train", *overrides), overrides)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    trained = vistok.load(Path(tmp_path / "run"))
    assert torch.equal(trained.tokenize(images), tokenizer.tokenize(images))
