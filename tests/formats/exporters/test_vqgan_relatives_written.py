"""Heads of VQGAN's relatives written in their authors' layouts: names and tensors again, settings, refusals."""

import json

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

import vistok
from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder, MagvitDecoder, MagvitEncoder
from vistok.formats.exporters import to_published
from vistok.formats.importers.published import averages
from vistok.quantizers import (
    IBQ,
    BinaryQuantizer,
    GumbelQuantizer,
    MultiScaleQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)

from ...conftest import SHARED

GOLDEN = {
    "ibq": "ibq",
    "openmagvit2_lfq": "openmagvit2",
    "var_vqvae": "var",
    "rqvae": "rqvae",
    "taming_gumbel": "gumbel",
    "taming_emavq": "taming_ema",
}
SIZES = {"channels": 32, "multipliers": (1, 2), "num_blocks": 1, "attention": (1,), "dim": 7}


def written(folder, family):
    """Tensors by name in an exported folder."""
    container = to_published.WRITTEN[family].container
    content = torch.load(folder / container.file, weights_only=True)
    return content if container.within is None else content[container.within]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_come_back(family, tmp_path, name):
    """Read and written: the authors' names again, and bit for bit all that is read.

    VAR's counts of codes and RQ-VAE's codeword of positions without a code are not.
    """
    theirs, io = family(name)
    told = json.loads((SHARED / "golden" / f"{name}.json").read_text())["config"]
    save_file(theirs, tmp_path / "golden.safetensors")
    tokenizer = vistok.load(tmp_path / "golden.safetensors", name, told)
    parity = to_published.save(tokenizer, tmp_path / "out", family=GOLDEN[name])
    assert parity.codes and not parity.near_ties and parity.pixels < 1e-5
    ours = written(tmp_path / "out", GOLDEN[name])
    if name == "openmagvit2_lfq":  # with averages, which this golden file has not, but its authors evaluate
        theirs |= averages(theirs)
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        rows = slice(-1) if name == "rqvae" and ".codebooks." in key and key.endswith(".weight") else ...
        assert tensor.dtype == theirs[key].dtype
        assert key == "quantize.ema_vocab_hit_SV" or torch.equal(tensor[rows], theirs[key][rows]), key
    config = to_published.WRITTEN[GOLDEN[name]].write(tokenizer).config
    for key, value in config.items():  # the authors' settings, but for what has no place in their files
        if key in told and key not in ("ddconfig", "kl_weight", "latent_shape", "code_shape"):
            assert value == told[key] or list(value) == list(told[key]), key
    networks = {key: told["ddconfig"][key] for key in ("ch", "ch_mult", "num_res_blocks", "z_channels")} if (
        "ddconfig" in told) else {}  # fmt: skip
    assert networks.items() <= config.get("ddconfig", {}).items()


def cnn(head, arguments=None, kernel=1, channels=3, dim=7):
    sizes = SIZES | {"dim": dim} | (arguments or {})
    maps = [nn.Conv2d(*sides, kernel or 1, padding=kernel // 2) for sides in ((dim, 7), (7, dim))]
    return Tokenizer(CNNEncoder(**sizes, in_channels=channels), head, CNNDecoder(**sizes, out_channels=channels),
                     *(maps if kernel else ()))  # fmt: skip


def magvit(head, **arguments):
    sizes = {"channels": 32, "multipliers": (1, 3), "num_blocks": 2, "dim": head.dim}
    return Tokenizer(MagvitEncoder(**sizes), head, MagvitDecoder(**sizes | {"adaptive": True} | arguments))


def residual(*sizes, depth=None, **arguments):
    return ResidualQuantizer([VectorQuantizer(size, 7, **arguments) for size in sizes], depth)


def scales(schedule=(1, 2, 4), head=None, **arguments):
    return MultiScaleQuantizer(VectorQuantizer(40, 7) if head is None else head, schedule, **arguments)


LFQ = {"spherical": False, "group": None, "temperature": 0.01}
AVERAGED = {"ema_decay": 0.9, "restart": 0.1}
OTHERS = [  # family, a tokenizer of odd sizes, and some settings that its authors' loader gets
    ("ibq", lambda: cnn(IBQ(50, 7), {"multipliers": (1, 3), "attention": (0, 1)}), {"n_embed": 50, "embed_dim": 7}),
    ("ibq", lambda: cnn(IBQ(50, 7), {"attention": ()}, channels=1), {}),
    ("gumbel", lambda: cnn(GumbelQuantizer(50, 7, start=0.7, warmup=5, updates=9), kernel=0), {"n_embed": 50}),
    ("taming_ema", lambda: cnn(VectorQuantizer(50, 7, kmeans_updates=3, **AVERAGED)), {"n_embed": 50}),
    ("taming_ema", lambda: cnn(VectorQuantizer(50, 7, cosine=True)), {}),
    ("openmagvit2", lambda: magvit(BinaryQuantizer(12, **LFQ)), {"n_embed": 4096, "embed_dim": 12}),
    ("rqvae", lambda: cnn(residual(30, depth=3)), {"n_embed": 30, "shared_codebook": True}),
    ("rqvae", lambda: cnn(residual(30, 20, **AVERAGED)), {"n_embed": [30, 20], "shared_codebook": False}),
    ("var", lambda: cnn(scales(), kernel=3), {"v_patch_nums": [1, 2, 4], "quant_conv_ks": 3, "share_quant_resi": 4}),
    ("var", lambda: cnn(scales(phi=1, phi_ratio=0.25)), {"quant_resi": 0.25, "share_quant_resi": 1}),
    ("var", lambda: cnn(scales("var", VectorQuantizer(40, 7, cosine=True), phi=0), kernel=0),
     {"quant_resi": 0.0, "quant_conv_ks": 1, "v_patch_nums": [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]}),
]  # fmt: skip


@pytest.mark.parametrize("case", OTHERS, ids=[f"{case[0]}{i}" for i, case in enumerate(OTHERS)])
def test_other_sizes(tmp_path, case):
    name, make, expected = case
    torch.manual_seed(0)
    tokenizer = make().eval()
    with torch.no_grad():
        for stored in tokenizer.quantizer.state_dict(keep_vars=True).values():
            if stored.ndim > 1:
                stored.normal_(std=0.5)
    parity = to_published.save(tokenizer, tmp_path / "out", family=name)
    assert parity.codes and not parity.near_ties and parity.pixels < 1e-4
    layout = to_published.WRITTEN[name]
    config = layout.write(tokenizer).config
    assert {key: config[key] for key in expected} == expected
    back = vistok.load(tmp_path / "out" / layout.container.file, name, config)
    to_published.same_tensors(vistok.load(tmp_path / "out"), back)  # without arguments
    images = torch.rand(2, tokenizer.encoder.in_channels, 8, 8) * 2 - 1
    codes = tokenizer.tokenize(images)
    assert torch.equal(back.tokenize(images), codes) and len(codes.unique()) > 1


def test_averages_are_kept_or_made(tmp_path):
    """Counts and sums of vectors of a head with moving averages; of another, one vector that is the codeword."""
    head = VectorQuantizer(50, 7, **AVERAGED)
    nn.init.uniform_(head.ema_counts)
    for i, own in enumerate((head, VectorQuantizer(50, 7))):
        to_published.save(cnn(own), tmp_path / f"{i}", family="taming_ema")
        tensors = written(tmp_path / f"{i}", "taming_ema")
        counts, sums = (head.ema_counts, head.ema_sums) if own is head else (torch.ones(50), own.codewords)
        assert torch.equal(tensors["quantize.embedding.cluster_size"], counts)
        assert torch.equal(tensors["quantize.embedding.embed_avg"], sums)


def test_settings_that_their_loaders_read(tmp_path):
    """Worked out by hand: arguments of the class, and the files in which they are looked for."""
    to_published.save(cnn(IBQ(50, 7)), tmp_path / "ibq", family="ibq")
    networks = {
        "double_z": False, "z_channels": 7, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [128], "dropout": 0.0,
    }  # fmt: skip
    flat = {"n_embed": 50, "embed_dim": 7, "ddconfig": networks}
    assert yaml.safe_load((tmp_path / "ibq" / "config.yaml").read_text()) == flat  # Emu3.5's
    model = yaml.safe_load((tmp_path / "ibq" / "ibq.yaml").read_text())["model"]
    assert model["class_path"] == "src.IBQ.models.ibqgan.IBQ" and flat.items() <= model["init_args"].items()
    assert model["init_args"]["use_ema"] is False  # Emu3.5 reads no other names than the weights
    to_published.save(magvit(BinaryQuantizer(12, **LFQ)), tmp_path / "magvit", family="openmagvit2")
    model = yaml.safe_load((tmp_path / "magvit" / "config.yaml").read_text())["model"]
    tensors = written(tmp_path / "magvit", "openmagvit2")
    assert model["init_args"]["use_ema"] is True  # as in its authors' configurations, whose loader is silent without
    assert torch.equal(tensors["model_ema.encoderconv_inweight"], tensors["encoder.conv_in.weight"])
    to_published.save(cnn(residual(30, depth=3)), tmp_path / "rq", family="rqvae")
    arch = yaml.safe_load((tmp_path / "rq" / "config.yaml").read_text())["arch"]
    assert (arch["type"], arch["ddconfig"]) == ("rq-vae", networks)
    assert arch["hparams"]["latent_shape"] == [128, 128, 7] and arch["hparams"]["code_shape"] == [128, 128, 3]
    to_published.save(cnn(GumbelQuantizer(50, 7, start=0.7, warmup=5, updates=9)), tmp_path / "gumbel", family="gumbel")
    model = yaml.safe_load((tmp_path / "gumbel" / "config.yaml").read_text())["model"]
    assert model["target"] == "taming.models.vqgan.GumbelVQ"
    assert model["params"]["temperature_scheduler_config"]["params"] == {
        "warm_up_steps": 5, "lr_min": 1e-6, "lr_max": 0.9, "lr_start": 0.7, "max_decay_steps": 9,
        "verbosity_interval": 0,
    }  # fmt: skip
    to_published.save(cnn(scales()), tmp_path / "var", family="var")
    config = json.loads((tmp_path / "var" / "config.json").read_text())
    assert config == {
        "vocab_size": 40, "z_channels": 7, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "beta": 0.25,
        "using_znorm": False, "quant_conv_ks": 1, "quant_resi": 0.5, "share_quant_resi": 4, "v_patch_nums": [1, 2, 4],
    }  # fmt: skip


def uneven_maps():
    tokenizer = cnn(scales())
    tokenizer.to_latent = nn.Conv2d(7, 7, 3, padding=1)
    return tokenizer


@pytest.mark.parametrize("name, make, message", [
    ("ibq", lambda: cnn(VectorQuantizer(50, 7)), "a VectorQuantizer, only for the largest inner product"),
    ("ibq", lambda: cnn(IBQ(50, 7), {"mid_attention": False, "attention": ()}), "mid_attention=False"),
    ("gumbel", lambda: cnn(IBQ(50, 7)), "a IBQ, only for a GumbelQuantizer"),
    ("gumbel", lambda: cnn(GumbelQuantizer(50, 7), dim=5), "codewords of 5, 7 and 7 channels"),
    ("taming_ema", lambda: cnn(IBQ(50, 7)), "a IBQ, which chooses codes by dot product"),
    ("openmagvit2", lambda: magvit(BinaryQuantizer(12)), "a BinaryQuantizer of 1 codes, only for one code"),
    ("openmagvit2", lambda: magvit(BinaryQuantizer(12, **LFQ), adaptive=False), "a decoder without adaptive norms"),
    ("openmagvit2", lambda: magvit(BinaryQuantizer(12, **LFQ), generative=True), "a generative decoder"),
    ("rqvae", lambda: cnn(ResidualQuantizer([VectorQuantizer(30, 7)], 2, factors=0.5)), "factors=0.5 of the depths"),
    ("rqvae", lambda: cnn(ResidualQuantizer([IBQ(30, 7)], 2)), "a IBQ, which chooses codes by dot product"),
    ("var", lambda: cnn(scales(upsampling="bilinear")), "upsampling=bilinear"),
    ("var", lambda: cnn(scales([(1, 1), (2, 4)])), r"schedule=\[\(1, 1\), \(2, 4\)\], only for squares"),
    ("var", lambda: cnn(scales(), {"attention": ()}), r"attention=\(\), only for the last level, \(1,\)"),
    ("var", lambda: cnn(scales(), channels=1), "images of 1 channels, only for 3"),
    ("var", uneven_maps, r"maps around the head of kernels \[\(1, 1\), \(3, 3\)\]"),
    ("ibq", lambda: cnn(IBQ(50, 7), {"halvings": 0}), "halvings=0, only for all levels but the last"),
])  # fmt: skip
def test_what_a_layout_cannot_hold_is_refused(tmp_path, name, make, message):
    with pytest.raises(ValueError, match=f"cannot represent .*({message})"):
        to_published.save(make(), tmp_path / "out", family=name)
    assert not list(tmp_path.iterdir())
