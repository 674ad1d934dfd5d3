"""Tokenizers written in the layouts of published checkpoints: the authors' names and tensors, and what is refused."""

import json
import re
import runpy
from functools import partial
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import vistok
from vistok import PixelMap, Tokenizer
from vistok.backbones import (
    BranchedEncoder,
    CNNDecoder,
    HierarchicalEncoder,
    MagvitDecoder,
    MagvitEncoder,
    PositionalDecoder,
    ViTDecoder,
    ViTEncoder,
)
from vistok.commands import export
from vistok.formats import native
from vistok.formats.exporters import to_published
from vistok.formats.exporters.parity import ParityError
from vistok.formats.importers import from_taming
from vistok.formats.importers.hyperparameters import get
from vistok.quantizers import (
    IBQ,
    BinaryQuantizer,
    DynamicQuantizer,
    EntropyRouter,
    FeatureRouter,
    JanusQuantizer,
    SimVQ,
    VectorQuantizer,
    VQBridge,
    factorized,
)

from ...conftest import SHARED

GOLDEN = {  # golden file: the family as which it is written, and names of it that are not read
    "taming_vqgan": ("taming", ""),
    "ldm_vq": ("taming", ""),
    "simvq": ("simvq", r"model_ema\.(decay|num_updates)"),
    "fvq_vit": ("fvq", r"quantize\.codebook_used"),
    "fvq_dit": ("fvq", r"quantize\.codebook_used"),
    "fvq_vit_converted": ("fvq", r"quantize\.codebook_used"),
    "fvq_dit_converted": ("fvq", r"quantize\.codebook_used"),
    "fqgan_dual": ("fqgan_dual", r"quantize_\w+\.codebook_used|feat_pred_head\..*"),
    "fqgan_triple": ("fqgan_triple", r"quantize_\w+\.codebook_used|(mid|high)_sem_feat_pred\..*"),
    "dqvae_dual_feat": ("dqvae_dual", ""),
    "dqvae_dual_entropy": ("dqvae_dual", ""),
    "dqvae_triple_feat": ("dqvae_triple", ""),
    "enhancing_vitvqgan": ("enhancing", ""),
    "bsqvit": ("bsqvit", ""),
    "maskgit_vqgan": ("maskgit", ""),
    "titok": ("titok", ""),
    "titok_onestage": ("titok", ""),
}
ROOT = Path(__file__).parent.parent.parent.parent
NOTES = runpy.run_path(str(ROOT / "docs" / "assets" / "families.py"))["NOTES"]
LOSSES = r"(feat_pred_head|(mid|high)_sem_feat_pred)\..*"  # FQGAN's predictors of features, which only training has
PADDED = "quantize.codebook.weight"  # the last codeword of DQ-VAE is never chosen, and not read


def written(folder, family):
    """Tensors by name in an exported folder."""
    container = to_published.WRITTEN[family].container
    path = folder / container.file
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, weights_only=True)
    content = content if container.within is None else content[container.within]
    assert all(name.startswith(container.prefix) for name in content)
    return {name.removeprefix(container.prefix): tensor for name, tensor in content.items()}


def instantiated(choice):
    """Class of the head that ``quantizer=choice`` trains."""
    content = yaml.safe_load((ROOT / "configs" / "quantizer" / f"{choice}.yaml").read_text())
    target = content.get("_target_")
    if target is None:
        return instantiated(content["defaults"][0])
    found = getattr(vistok.quantizers, target.rpartition(".")[2])
    return found if isinstance(found, type) else get_type_hints(found)["return"]


def again(folder, family, config):
    return vistok.load(folder / to_published.WRITTEN[family].container.file, family, config)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_come_back(family, tmp_path, name):
    """Read and written: the authors' names again, and every tensor that is read bit for bit."""
    theirs, io = family(name)
    layout, not_read = GOLDEN[name]
    config = json.loads((SHARED / "golden" / f"{name}.json").read_text())["config"]
    save_file(theirs, tmp_path / "golden.safetensors")
    tokenizer = vistok.load(tmp_path / "golden.safetensors", layout, config)
    trained = instantiated(NOTES[layout][1])
    assert type(tokenizer.quantizer) is trained or name.endswith("_converted")  # a plain table
    parity = to_published.save(tokenizer, tmp_path / "out", family=layout)
    assert parity.codes and not parity.near_ties and parity.pixels < 1e-5 and parity.by_metric is None
    ours = written(tmp_path / "out", layout)
    assert ours.keys() == {key for key in theirs if not re.fullmatch(LOSSES, key)}
    for key, tensor in ours.items():
        expected = theirs.get(f"model_ema.{key.replace('.', '')}", theirs[key])  # what evaluates
        assert tensor.dtype == expected.dtype
        if key == PADDED:
            tensor, expected = tensor[:-1], expected[:-1]
        assert torch.equal(tensor, expected) or re.fullmatch(not_read, key), key
    back = again(tmp_path / "out", layout, config)
    assert torch.equal(back.tokenize(io["images"]).reshape(io["codes"].shape), io["codes"])


CNN = {"channels": 32, "multipliers": (1, 3), "num_blocks": 1, "attention": (1,), "dim": 16}


def magvit(head, **arguments):
    sizes = {"channels": 32, "multipliers": (1, 3), "num_blocks": 3, "dim": 6} | arguments
    return Tokenizer(MagvitEncoder(**sizes), head, MagvitDecoder(**sizes))


def fqgan(k, **arguments):
    encoder = BranchedEncoder(**CNN | {"dim": 7 * k}, branches=k, grid=5, depth=1, heads=3)
    head = factorized(partial(VectorQuantizer, 30, **arguments), k, 4 * k)
    decoder = CNNDecoder(**CNN | {"dim": 7, "multipliers": (2, 1)})
    return Tokenizer(encoder, head, decoder, nn.Conv2d(7 * k, 4 * k, 1, groups=k), nn.Conv2d(4 * k, 7, 1))


def dqvae(grains, router, head, mapped=True):
    encoder = HierarchicalEncoder(32, (1, 1, 2, 3)[: grains + 1], 1, (grains,), 12, num_maps=grains)
    up = CNNDecoder(32, (2, 1), 2, (0,), 12)
    projection, after = (nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)) if mapped else (None, None)
    return Tokenizer(encoder, DynamicQuantizer(head, router, projection=projection), PositionalDecoder(up, 12, 8),
                     from_latent=after)  # fmt: skip


def enhancing(cosine=True, **arguments):
    size = {"num_heads": 3, "head_dim": 8, "patch": 4, "image_size": 24, "positions": "sincos", "activation": "tanh"}
    size |= {"qkv_bias": False, "output_mlp_ratio": None} | arguments
    return Tokenizer(ViTEncoder(dim=20, depth=1, mlp_ratio=1.5, **size), VectorQuantizer(30, 6, cosine=cosine),
                     ViTDecoder(dim=28, depth=2, mlp_ratio=3, **size), nn.Conv2d(20, 6, 1), nn.Conv2d(6, 28, 1),
                     PixelMap(0.5, 0.5))  # fmt: skip


def bsqvit(head, **arguments):
    size = {"num_heads": 3, "head_dim": 8, "patch": 4, "image_size": 24, "pre_norm": True} | arguments
    return Tokenizer(ViTEncoder(dim=24, depth=1, mlp_ratio=1.5, output_mlp_ratio=None, **size), head,
                     ViTDecoder(dim=48, depth=2, mlp_ratio=3, output_mlp_ratio=2, **size | {"head_dim": 16}),
                     nn.Conv2d(24, 12, 1), nn.Conv2d(12, 48, 1))  # fmt: skip


AVERAGED = {"ema_decay": 0.9, "restart": 0.1}
OURS = [  # family, and a tokenizer of other sizes than the published ones, some with a head that only amounts to theirs
    ("taming", lambda make: make(VectorQuantizer(50, 7), multipliers=(1, 3, 2), attention=(0, 2))),
    ("taming", lambda make: make(VectorQuantizer(50, 7, kmeans_updates=3, **AVERAGED), num_blocks=3, dim=5)),
    ("taming", lambda make: make(VectorQuantizer(50, 7), attention=(), mid_attention=False)),
    ("taming", lambda make: make(SimVQ(50, 16))),
    ("fvq", lambda make: make(VQBridge(64, 5, "XS", 2, 2, "vit"), multipliers=(2, 1))),
    ("fvq", lambda make: make(VQBridge(144, 5, "B", 4, 1, "dit"), num_blocks=2)),
    ("fvq", lambda make: make(VectorQuantizer(50, 7))),
    ("simvq", lambda make: magvit(SimVQ(40, 6))),
    ("simvq", lambda make: magvit(VectorQuantizer(40, 6, **AVERAGED), num_blocks=1)),
    ("fqgan_dual", lambda make: fqgan(2, cosine=True)),
    ("fqgan_triple", lambda make: fqgan(3, ema_decay=0.9)),
    ("dqvae_dual", lambda make: dqvae(2, FeatureRouter(12, 2, 3), VectorQuantizer(20, 6, **AVERAGED))),
    ("dqvae_dual", lambda make: dqvae(2, EntropyRouter([1.5], 4), SimVQ(20, 12), mapped=False)),
    ("dqvae_triple", lambda make: dqvae(3, FeatureRouter(12, 3, 4, "relu"), VectorQuantizer(20, 6))),
    ("dqvae_dual", lambda make: dqvae(2, FeatureRouter(12, 2, None), VectorQuantizer(20, 6, cosine=True))),
    ("enhancing", lambda make: enhancing()),
    ("enhancing", lambda make: enhancing(cosine=False)),
    ("bsqvit", lambda make: bsqvit(BinaryQuantizer(12, group=3))),
]


@pytest.mark.parametrize("family, make", OURS, ids=[f"{family}{i}" for i, (family, _) in enumerate(OURS)])
def test_other_sizes(make_vqgan, tmp_path, family, make):
    """What is written and read again is the tokenizer, though no golden file has its sizes."""
    torch.manual_seed(0)
    tokenizer = make(make_vqgan).eval()
    with torch.no_grad():
        for parameter in [*tokenizer.parameters(), *tokenizer.quantizer.buffers()]:
            if parameter.is_floating_point() and (parameter.ndim > 1 and parameter.std() < 0.1 or not parameter.any()):
                nn.init.normal_(parameter, std=0.2)
    original = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    parity = to_published.save(tokenizer, tmp_path / "out", family=family)
    assert parity.pixels < 1e-5
    assert all(torch.equal(tensor, original[name]) for name, tensor in tokenizer.state_dict().items())
    config = to_published.WRITTEN[family].write(tokenizer).config
    back = again(tmp_path / "out", family, json.loads(json.dumps(config)))
    to_published.same_tensors(vistok.load(tmp_path / "out"), back)  # without arguments
    images = torch.rand(2, 3, 24, 48) * 2 - 1
    codes = tokenizer.tokenize(images)
    assert torch.equal(back.tokenize(images), codes) and len(codes.unique()) > 1
    torch.testing.assert_close(back.detokenize(codes), tokenizer.detokenize(codes), rtol=0, atol=1e-5)


def test_settings_beside_weights_give_way_to_the_callers(make_vqgan, tmp_path):
    to_published.save(make_vqgan(VectorQuantizer(50, 7)), tmp_path / "out")
    assert type(vistok.load(tmp_path / "out" / "model.ckpt").quantizer) is VectorQuantizer
    assert type(vistok.load(tmp_path / "out", "ibq").quantizer) is IBQ
    (tmp_path / "out" / "model.ckpt").rename(tmp_path / "out" / "other.ckpt")
    with pytest.raises(ValueError, match="family='taming' or family='ibq'"):  # the settings are another file's
        vistok.load(tmp_path / "out")


def test_settings_of_taming(make_vqgan, tmp_path):
    """What their loader gets, worked out by hand: levels with attention are named by their resolution."""
    tokenizer = make_vqgan(VectorQuantizer(50, 7), multipliers=(1, 3, 2), attention=(0, 2))
    to_published.save(tokenizer, tmp_path / "out", {"name": "a model"})
    model = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["model"]
    assert model == {
        "target": "taming.models.vqgan.VQModel",
        "params": {
            "n_embed": 50, "embed_dim": 7, "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"},
            "ddconfig": {
                "double_z": False, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
                "ch_mult": [1, 3, 2], "num_res_blocks": 1, "attn_resolutions": [256, 64], "dropout": 0.0,
            },
        },
    }  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# a model" in card and "VQModelInterface" in card and "all 96 codes" in card


def test_without_attention_the_model_is_latent_diffusions(make_vqgan, tmp_path):
    to_published.save(make_vqgan(VectorQuantizer(50, 7), attention=(), mid_attention=False), tmp_path / "out")
    model = yaml.safe_load((tmp_path / "out" / "ldm.yaml").read_text())["model"]
    assert model["params"]["ddconfig"]["attn_type"] == "none" and model["target"].endswith(".VQModelInterface")
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_maps_that_a_layout_has_and_a_tokenizer_has_not(make_vqgan, uneven, tmp_path):
    tokenizer = make_vqgan(uneven(16))
    tokenizer.to_latent = tokenizer.from_latent = torch.nn.Identity()
    to_published.save(tokenizer, tmp_path / "out")
    state = written(tmp_path / "out", "taming")
    assert torch.equal(state["quant_conv.weight"][:, :, 0, 0], torch.eye(16)) and not state["quant_conv.bias"].any()


@pytest.mark.parametrize("family, make, file, expected", [  # worked out by hand from the authors' configurations
    ("fvq", OURS[5][1], "config.json", {"QB_type": "QBridge-B/4-d1", "variant": "dit", "is_uncondition": True,
     "codebook_size": 144, "codebook_embed_dim": 5, "codebook_l2_norm": False, "num_res_blocks": 2, "z_channels": 16}),
    ("simvq", OURS[7][1], "config.yaml", {"model.class_path": "taming.models.vq.VQModel",
     "model.init_args.ddconfig.ch_mult": [1, 3], "model.init_args.quantconfig.params.e_dim": 6,
     "model.init_args.use_ema": True}),
    ("fqgan_triple", OURS[10][1], "config.json", {"codebook_l2_norm": False, "z_channels": 7, "decoder_ch_mult": [2, 1],
     "adapter.image_size": 10, "adapter.heads": 3, "adapter.width": 96}),
    ("dqvae_dual", OURS[12][1], "config.yaml", {
     "model.target": "models.stage1_dynamic.dqvae_dual_entropy.DualGrainVQModel",
     "model.params.encoderconfig.params.attn_resolutions": [4], "model.params.decoderconfig.params.latent_size": 8,
     "model.params.decoderconfig.params.attn_resolutions": [16], "model.params.entropy_patch_size": 4,
     "model.params.encoderconfig.params.router_config.params.fine_grain_ratito": 0.5, "model.params.image_size": 16}),
    ("dqvae_dual", OURS[12][1], "thresholds.json", {"50": 1.5}),
    ("dqvae_triple", OURS[13][1], "config.yaml", {
     "model.params.encoderconfig.params.router_config.target": "modules.dynamic_modules.RouterTriple."
     "TripleGrainFeatureRouter", "model.params.encoderconfig.params.router_config.params.gate_type": "2layer-fc-ReLu",
     "model.params.encoderconfig.params.router_config.params.normalization_type": "group-4"}),
    ("enhancing", OURS[16][1], "config.yaml", {"model.params.encoder": {"dim": 20, "depth": 1, "heads": 3,
     "mlp_dim": 30, "dim_head": 8}, "model.params.quantizer.use_norm": False, "model.params.image_size": 24}),
    ("bsqvit", OURS[17][1], "config.yaml", {"model.params.dvitconfig.dim_ffn_output": 96,
     "model.params.vitconfig.mlp_ratio": 1.5, "model.params.embed_group_size": 3, "model.params.embed_dim": 12}),
])  # fmt: skip
def test_settings(make_vqgan, family, make, file, expected):
    layout = to_published.WRITTEN[family]
    content = layout.container.settings(layout.write(make(make_vqgan)).config)[file]
    assert {name: get(content, name) for name in expected} == expected


def changed(tokenizer, **parts):
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def two_sizes():
    tokenizer = fqgan(2)
    tokenizer.quantizer.heads[1] = VectorQuantizer(31, 4)
    return tokenizer


@pytest.mark.parametrize("family, make, message", [
    ("taming", lambda make: make(VectorQuantizer(50, 7), channels=16), "norms of 16, 32 groups, only for one number"),
    ("taming", lambda make: make(VectorQuantizer(50, 7), mid_attention=False), "attention in levels but not between"),
    ("taming", lambda make: make(VectorQuantizer(50, 7), patch=2), "patch=2, only for 1"),
    ("taming", lambda make: make(JanusQuantizer(50, 7)), "a JanusQuantizer, which chooses codes in one table and"),
    ("taming", lambda make: make(BinaryQuantizer(7)), "a BinaryQuantizer: its codewords are"),
    ("taming", lambda make: enhancing(), "a ViTEncoder, only for VQGAN's CNNEncoder"),
    ("fvq", lambda make: make(VQBridge(64, 5, "XS", 2, 3)), "a bridge of size=XS, patch=2, depth=3"),
    ("fvq", lambda make: make(VQBridge(60, 5, "XS", 2)), "a bridge over 60 codewords, only over squares of squares"),
    ("fvq", lambda make: make(VectorQuantizer(50, 7), attention=(0,)), "attention=.0,., only for the last level, 1"),
    ("simvq", lambda make: changed(magvit(SimVQ(40, 6)), to_latent=nn.Conv2d(6, 6, 1)), "a to_latent: the head's"),
    ("simvq", lambda make: make(SimVQ(40, 7)), "a CNNEncoder, only for a Magvit"),
    ("simvq", lambda make: magvit(SimVQ(40, 6), channels=48), "norms of 16 groups, only for 32"),
    ("fqgan_dual", lambda make: fqgan(3), "a to_latent of kernel_size=.1, 1., groups=3, only for 1x1 of 2 groups"),
    ("fqgan_dual", lambda make: two_sizes(), r"heads of \[3[01], 4\] by l2 and \[3[01], 4\] by l2"),
    ("fqgan_dual", lambda make: changed(fqgan(2), quantizer=VectorQuantizer(30, 8)), "a VectorQuantizer of 1"),
    ("dqvae_dual", lambda make: dqvae(2, EntropyRouter([1.5], 4, 0.0, 1.0), VectorQuantizer(20, 6)),
     "a histogram from 0 to 1, only from -1 to 1"),
    ("dqvae_dual", lambda make: dqvae(2, FeatureRouter(12, 2, 3, "relu"), VectorQuantizer(20, 6)), "a gate of"),
    ("dqvae_dual", lambda make: dqvae(3, FeatureRouter(12, 3, 3), VectorQuantizer(20, 6)), "a DynamicQ"),
    ("dqvae_dual", lambda make: dqvae(2, FeatureRouter(12, 2, 3), BinaryQuantizer(6)), "a BinaryQuantizer: its"),
    ("dqvae_triple", lambda make: dqvae(3, EntropyRouter([0.5, 1.5], 8), VectorQuantizer(20, 6)), "three gran"),
    ("enhancing", lambda make: enhancing(activation="gelu"), "activation='gelu' in the encoder, only for 'tanh'"),
    ("enhancing", lambda make: changed(enhancing(), pixels=PixelMap()), r"PixelMap.*, only for .* \[0, 1\]"),
    ("bsqvit", lambda make: bsqvit(BinaryQuantizer(12, spherical=False)), "a BinaryQuantizer of 1 codes, only for the"),
    ("bsqvit", lambda make: bsqvit(BinaryQuantizer(12), pre_norm=False), "pre_norm=False in the encoder"),
])  # fmt: skip
def test_what_a_layout_cannot_hold_is_refused(make_vqgan, tmp_path, family, make, message):
    with pytest.raises(
        ValueError, match=f"layout cannot represent {message}.*; the targets onnx, torch and folder take"
    ):
        to_published.save(make(make_vqgan), tmp_path / "out", family=family)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change, message", [
    (lambda published: published.tokenizer.quantizer.codewords.data.mul_(1.001), "1 parts of it are read otherwise"),
    (lambda published: published.tokenizer.decoder.conv_out.bias.data.add_(1), "decoded images differ by 1.0e"),
])  # fmt: skip
def test_a_wrong_file_is_not_finished(make_vqgan, uneven, tmp_path, monkeypatch, change, message):
    """Tensors that are read otherwise, and a form of the layout that is not the tokenizer."""
    real_write, real_save = from_taming.write, to_published.write_weights

    def write(tokenizer):
        published = real_write(tokenizer)
        if "decoded" in message:
            change(published)
        return published

    def save(layout, published, folder):
        path = real_save(layout, published, folder)
        if "read" in message:
            change(published)
        return path

    layout = to_published.WRITTEN["taming"]
    monkeypatch.setitem(to_published.WRITTEN, "taming", layout._replace(write=write))
    monkeypatch.setattr(to_published, "write_weights", save)
    with pytest.raises(ParityError, match=message):
        to_published.save(make_vqgan(uneven()), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command(make_vqgan, uneven, tmp_path, capsys):
    """Any family that is written is a target; settings of the file are those that reading takes."""
    native.save(make_vqgan(uneven()), tmp_path / "ours")
    export.main([str(tmp_path / "ours"), "--to", "taming", "--out", str(tmp_path / "out")])
    assert "all 96 codes" in capsys.readouterr().out
    given = json.dumps(yaml.safe_load((tmp_path / "out" / "ldm.yaml").read_text())["model"]["params"])
    source = [str(tmp_path / "out" / "model.ckpt"), "--family", "taming", "--family-config", given]
    export.main([*source, "--to", "taming", "--out", str(tmp_path / "again")])
    first, second = written(tmp_path / "out", "taming"), written(tmp_path / "again", "taming")
    assert first.keys() == second.keys() and all(torch.equal(second[name], tensor) for name, tensor in first.items())
