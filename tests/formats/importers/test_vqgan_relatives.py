"""Families with VQGAN's or Open-MAGVIT2's networks around other heads: the authors' codes and images, other sizes."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import vistok
from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder, MagvitDecoder, MagvitEncoder
from vistok.formats import families, native
from vistok.formats.importers import from_ibq, from_taming
from vistok.formats.importers.hyperparameters import Unknown
from vistok.formats.importers.key_map import Rule, to_ours, to_theirs
from vistok.quantizers import (
    IBQ,
    BinaryQuantizer,
    GumbelQuantizer,
    MultiScaleQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)
from vistok.training import run, slim_checkpoint

from ...conftest import SHARED

SIDES = {"v_patch_nums": [1, 2, 3, 5, 8]}
GOLDEN = {  # golden file: its family, the least that must be given, and the message without it
    "ibq": ("ibq", {"family": "ibq"}, "give family='taming' or family='ibq'"),
    "openmagvit2_lfq": ("openmagvit2", {"family": "openmagvit2"}, "give family='openmagvit2' if it is one"),
    "var_vqvae": ("var", {"config": SIDES}, r"the sides of its 5 scales: give config={'v_patch_nums': \[1, 2, ...\]}"),
    "rqvae": ("rqvae", {}, None),
    "taming_gumbel": ("gumbel", {}, None),
    "taming_emavq": ("taming_ema", {}, None),
}


def theirs(name, codes):
    """Our codes as the authors have them: RQ-VAE's depths come last, other codes have no axis of codebooks."""
    return codes.permute(0, 2, 3, 1) if name == "rqvae" else codes[:, 0, 0] if name == "var_vqvae" else codes[:, 0]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_authors_codes_and_images(family, tmp_path, name):
    weights, io = family(name)
    layout, least, message = GOLDEN[name]
    everything = {"family": name, "config": json.loads((SHARED / "golden" / f"{name}.json").read_text())["config"]}
    save_file(weights, tmp_path / "model.safetensors")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "last.ckpt")
    if message is None:
        assert families.family_of(weights) == layout
    else:
        with pytest.raises(Unknown, match=message):
            vistok.load(tmp_path / "last.ckpt")
    for file, arguments in (("model.safetensors", least), ("last.ckpt", everything)):
        tokenizer = vistok.load(tmp_path / file, **arguments)
        size = tuple(io["images"].shape[-2:])
        with torch.no_grad():
            reconstruction, quantized = tokenizer(io["images"])
            torch.testing.assert_close(tokenizer.encode(io["images"]), io["latent"], rtol=0, atol=2e-5)
        again, emitted = tokenizer.reconstruct(io["images"])
        assert torch.equal(theirs(name, quantized.codes), io["codes"]) and torch.equal(emitted.codes, quantized.codes)
        torch.testing.assert_close(quantized.latent, io["quantized"], rtol=0, atol=2e-6)
        for images in (reconstruction, again, tokenizer.decode(tokenizer.lookup(emitted.codes, size), size)):
            torch.testing.assert_close(images, io["reconstruction"], rtol=0, atol=2e-5)
        decoded = tokenizer.detokenize(emitted.codes, size)
        torch.testing.assert_close(decoded, io["decoded_from_codes"].clamp(-1, 1), rtol=0, atol=2e-5)
    ours = vistok.load(native.save(tokenizer, tmp_path / "ours"))
    for folded in (ours, tokenizer.fold()):
        assert torch.equal(folded.tokenize(io["images"]), emitted.codes)
        assert torch.equal(folded.detokenize(emitted.codes, size), decoded)


def test_prefixes_of_codes(family, tmp_path):
    """The first depths of RQ-VAE and the first scales of VAR, and the sums that they amount to."""
    for name, counts, positions in (("rqvae", (1, 2, 3, 4), 8), ("var_vqvae", (1, 5, 14, 39, 103), 8)):
        weights, io = family(name)
        save_file(weights, tmp_path / f"{name}.safetensors")
        tokenizer = vistok.load(tmp_path / f"{name}.safetensors", **GOLDEN[name][1])
        codes, layout = tokenizer.tokenize(io["images"]), tokenizer.quantizer.layout(positions, positions)
        sums = io["partial_sums"].permute(0, 1, 4, 2, 3) if name == "rqvae" else io["quantized_per_scale"]
        for i, count in enumerate(counts):
            first = codes[:, :count] if name == "rqvae" else codes[..., :count]
            torch.testing.assert_close(tokenizer.quantizer.lookup(first, layout), sums[:, i], rtol=0, atol=2e-6)
        losses = tokenizer(io["images"]).quantized.losses
        told = io["commitment_loss"] if name == "rqvae" else io["vq_loss"]
        total = losses["commitment"] if name == "rqvae" else losses["codebook"] + 0.25 * losses["commitment"]
        torch.testing.assert_close(total, told[0], rtol=1e-5, atol=0)


def test_losses_of_gumbel(family, tmp_path):
    weights, io = family("taming_gumbel")
    save_file(weights, tmp_path / "model.safetensors")
    losses = vistok.load(tmp_path / "model.safetensors")(io["images"]).quantized.losses
    torch.testing.assert_close(losses["kl"] * 5e-4, io["kl"][0], rtol=1e-5, atol=0)


def test_moving_averages_of_taming(family, close, tmp_path):
    """Two updates from a loaded model, whose table is learned on; their second call has mirrored images."""
    weights, io = family("taming_emavq")
    save_file(weights, tmp_path / "model.safetensors")
    tokenizer = vistok.load(tmp_path / "model.safetensors")
    head = tokenizer.quantizer.train()
    for step, images in (("train1", io["images"]), ("train2", io["images"].flip(3))):
        quantized = head(tokenizer.encode(images))
        assert torch.equal(quantized.codes[:, 0], io[f"{step}.codes"])
        close(0.25 * quantized.losses["commitment"], io[f"{step}.commit"])
        head.update(quantized.stats)
        close(head.codewords, io[f"{step}.after.weight"])
        close(head.ema_counts, io[f"{step}.after.cluster_size"])
        close(head.ema_sums, io[f"{step}.after.embed_avg"])


# ------------------------------------------------------------------------------- without golden files: other sizes

DOWN = {"channels": 12, "multipliers": (1, 2, 3), "num_blocks": 1, "attention": (1, 2), "dim": 10}
UP = DOWN | {"multipliers": (1, 1, 4), "num_blocks": 3, "attention": (0, 2)}


def cnn(head, down=DOWN, up=UP, sides=(1, 1)):
    into = head.input_dim or head.dim
    maps = [nn.Conv2d(*dims, side, padding=side // 2)
            for dims, side in zip(((10, into), (head.dim, 10)), sides, strict=True)]  # fmt: skip
    return Tokenizer(CNNEncoder(**down), head, CNNDecoder(**up), *maps)


def magvit(bits, down=(1, 3), up=(2, 1), **arguments):
    size = {"channels": 8, "dim": bits}
    return Tokenizer(MagvitEncoder(**size, multipliers=down, num_blocks=2, **arguments),
                     BinaryQuantizer(bits, spherical=False, temperature=0.01, group=None),
                     MagvitDecoder(**size, multipliers=up, num_blocks=3, adaptive=True))  # fmt: skip


def averaged(size, dim):
    head = VectorQuantizer(size, dim, ema_decay=0.99, restart=1.0, restart_unit="vector")
    head.codewords.normal_()
    return head


def scales(sides, phi, ratio=0.5):
    head = VectorQuantizer(40, 7)
    nn.init.normal_(head.codewords)
    return MultiScaleQuantizer(head, sides, phi, ratio)


def twice(tensors):
    """RQ-VAE's file of a shared codebook: each depth has it."""
    own = {name: t for name, t in tensors.items() if ".codebooks.0." in name}
    return tensors | {name.replace(".0.", f".{i}."): t for name, t in own.items() for i in (1, 2)}


def renamed(old, new, tensors):
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


GREY = {"in_channels": 1}, {"out_channels": 1}
VAR = {"v_patch_nums": [1, 2, 4], "quant_resi": -0.25}
OTHERS = [  # family, a tokenizer of odd sizes, what has to be said of it, and a change to the tensors
    ("ibq", lambda: cnn(IBQ(50, 7)), {"family": "ibq"}),
    ("ibq", lambda: cnn(IBQ(9, 1), DOWN | GREY[0] | {"mid_attention": False}, UP | GREY[1]), {"family": "emu3.5"}),
    ("gumbel", lambda: cnn(GumbelQuantizer(50, 7)), {}),
    ("gumbel", lambda: cnn(GumbelQuantizer(50, 7, 5), DOWN | {"attention": ()}), {}),
    ("taming_ema", lambda: cnn(VectorQuantizer(50, 7, ema_decay=0.9)), {}),
    ("openmagvit2", lambda: magvit(13), {"family": "openmagvit2"}),
    ("openmagvit2", lambda: magvit(24, (2, 1, 3), (1, 1, 2), in_channels=1), {"family": "openmagvit2"}),
    ("rqvae", lambda: cnn(ResidualQuantizer([averaged(30, 6)], 3)), {}, twice),
    ("rqvae", lambda: cnn(ResidualQuantizer([averaged(30, 6), averaged(20, 6)])),
     {"config": {"shared_codebook": False}}),
    ("rqvae", lambda: cnn(ResidualQuantizer([averaged(30, 6)])), {}),
    ("var", lambda: cnn(scales([1, 2, 4], 3, 0.25), sides=(3, 5)), {"config": VAR}),
    ("var", lambda: cnn(scales([1, 2, 4], 4, 0.25)), {"config": VAR}, partial(renamed, "qresi_ls.", "")),
    ("var", lambda: cnn(scales([1, 2, 4], 1, 0.25)), {"config": VAR}, partial(renamed, "qresi_ls.0", "qresi")),
    ("var", lambda: cnn(scales([4], 0)), {"config": {"v_patch_nums": (4,)}, "family": "var"}),
]  # fmt: skip


@pytest.mark.parametrize("case", OTHERS, ids=[f"{case[0]}{i}" for i, case in enumerate(OTHERS)])
def test_other_sizes(tmp_path, case):
    name, make, given, *change = case
    torch.manual_seed(0)
    tokenizer = make().eval()
    for own in tokenizer.quantizer.parameters():
        nn.init.normal_(own)
    rules = next(known for known in families.FAMILIES if known.name == name).rules
    written = to_theirs(rules, tokenizer.state_dict(), len(tokenizer.decoder.levels))
    written = {key: t.contiguous() for key, t in (change[0](written) if change else written).items()}
    if name == "var":
        written["quantize.ema_vocab_hit_SV"] = torch.zeros(len(given["config"]["v_patch_nums"]), 40)
    torch.save({"state_dict": written}, tmp_path / "model.ckpt")
    loaded = vistok.load(tmp_path / "model.ckpt", **given)
    assert native.describe(loaded.encoder) == native.describe(tokenizer.encoder)
    read = loaded.state_dict()
    for key, tensor in tokenizer.state_dict().items():
        assert torch.equal(read[key], tensor), key
    images = torch.rand(2, tokenizer.encoder.in_channels, 16, 16) * 2 - 1
    reconstruction, quantized = tokenizer(images)
    again, codes = loaded(images).reconstruction, loaded.tokenize(images)
    assert torch.equal(codes, quantized.codes) and torch.equal(again, reconstruction)
    assert len(codes.unique()) > 1


@pytest.mark.parametrize("channels, blocks, size, expected", [
    (128, 2, 8192, "taming"), (128, 4, 8192, "ibq"), (256, 4, 131072, "ibq"),
    (128, 4, 131072, None), (256, 4, 16384, None), (128, 3, 16384, None), (128, 2, 262144, None),
])  # fmt: skip
def test_vqgan_ibq_and_emu_by_their_published_sizes(channels, blocks, size, expected):
    arguments = {"channels": channels, "num_blocks": blocks}
    with torch.device("meta"):
        maps = nn.Conv2d(256, 256, 1), nn.Conv2d(256, 256, 1)
        model = Tokenizer(CNNEncoder(**arguments), VectorQuantizer(size, 256), CNNDecoder(**arguments), *maps)
        tensors = to_theirs(from_taming.RULES, model.state_dict(), 5)
        shapes = {name: tuple(t.shape) for name, t in to_ours(from_taming.RULES, tensors, 5).items()}
        if expected is None:
            with pytest.raises(Unknown, match="give family='taming' or family='ibq'"):
                from_taming.build(shapes, {}, False)
        else:
            assert families.family_of(tensors) == expected
        found = from_ibq.build(shapes, {}, False)
    numbers = sum(tensor.numel() for tensor in found.state_dict().values())
    assert (channels, size) != (256, 131072) or round(numbers / 1e6) == 455  # as Emu3.5's authors count


def test_the_published_var_needs_nothing():
    size = {"channels": 160, "dim": 32}
    with torch.device("meta"):
        maps = [nn.Conv2d(32, 32, 3, padding=1) for _ in range(2)]
        head = MultiScaleQuantizer(VectorQuantizer(4096, 32))
        model = Tokenizer(CNNEncoder(**size), head, CNNDecoder(**size), *maps)
        known = next(known for known in families.FAMILIES if known.name == "var")
        tensors = to_theirs(known.rules, model.state_dict(), 5) | {"quantize.ema_vocab_hit_SV": torch.zeros(10, 4096)}
        assert len(tensors) == 324 and sum(tensor.numel() for tensor in tensors.values()) == 108_948_355 + 40_960
        assert families.family_of(tensors) == "var"
        shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        assert known.build(shapes, {}, False, 10).quantizer.schedule == "var"
        with pytest.raises(Unknown, match="the sides of its 12 scales"):
            known.build(shapes, {}, False, 12)


@pytest.mark.parametrize("bits, channels, refused", [(18, 128, False), (14, 128, False), (32, 128, True),
                                                     (18, 256, True)])  # fmt: skip
def test_open_magvit2_by_its_published_sizes(bits, channels, refused):
    size = {"channels": channels, "multipliers": (1, 1, 2, 2, 4), "num_blocks": 4, "dim": bits}
    known = next(known for known in families.FAMILIES if known.name == "openmagvit2")
    with torch.device("meta"):
        parts = MagvitEncoder(**size), BinaryQuantizer(bits), MagvitDecoder(**size, adaptive=True)
        shapes = {name: tuple(t.shape) for name, t in Tokenizer(*parts).state_dict().items()}
        if refused:
            with pytest.raises(Unknown, match="WeTok and BitDance have the same names"):
                known.build(shapes, {}, False)
        head = known.build(shapes, {}, refused).quantizer
    assert (head.bits, head.spherical, head.group) == (bits, False, 16 if bits == 32 else bits)
    assert head.powers[:, 0, 0].tolist() == [2**i for i in range(bits)]


@pytest.mark.parametrize("family_name, config, message", [
    ("var", {"v_patch_nums": [1, 2, 4]}, "has 3 sides, but the file has counts of 5 scales"),
    ("var", {"v_patch_nums": "all"}, "v_patch_nums must be a list of sides of at least 1, not 'all'"),
    ("var", {"v_patch_nums": [1, 2, 0, 8, 8]}, "v_patch_nums must be a list of sides"),
    ("var", {"v_patch_nums": [1, 4, 2, 8, 8]}, "must go from coarse to fine"),
    ("var", SIDES | {"quant_resi": "half"}, "quant_resi must be a number from -1 to 1, not 'half'"),
    ("var", SIDES | {"using_znorm": True}, "using_znorm=True cannot be imported"),
    ("rqvae", {"shared_codebook": True}, "shared_codebook=True cannot be imported, only False"),
])  # fmt: skip
def test_settings_that_do_not_fit(tmp_path, family_name, config, message):
    made = {"var": lambda: cnn(scales([1, 2, 4, 6, 8], 2)),
            "rqvae": lambda: cnn(ResidualQuantizer([averaged(30, 6), averaged(30, 6)]))}  # fmt: skip
    tokenizer = made[family_name]()
    known = next(known for known in families.FAMILIES if known.name == family_name)
    tensors = {key: t.contiguous() for key, t in to_theirs(known.rules, tokenizer.state_dict(), 3).items()}
    if family_name == "var":
        tensors["quantize.ema_vocab_hit_SV"] = torch.zeros(5, 40)
    torch.save(tensors, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message):
        vistok.load(tmp_path / "model.pt", config=config)


def test_codes_of_several_positions_are_refused(tmp_path):
    tokenizer = cnn(ResidualQuantizer([averaged(30, 6)], 2))
    known = next(known for known in families.FAMILIES if known.name == "rqvae")
    tensors = {key: t.contiguous() for key, t in to_theirs(known.rules, tokenizer.state_dict(), 3).items()}
    tensors["quantizer.codebooks.0.weight"] = torch.randn(31, 24)
    torch.save(tensors, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="codewords have 24 channels, its latent 6: codes of several positions"):
        vistok.load(tmp_path / "model.pt")


def test_a_fused_tensor_by_hand():
    rules = [Rule(f"a.{{i}}.qkv.{{p}}#{k}", f"b.{{~i}}.{name}.{{p}}") for k, name in enumerate("qkv")]
    ours = to_ours(rules, {"a.0.qkv.bias": torch.arange(6.0)}, levels=2)
    assert {name: t.tolist() for name, t in ours.items()} == {"b.1.q.bias": [0, 1], "b.1.k.bias": [2, 3],
                                                              "b.1.v.bias": [4, 5]}  # fmt: skip
    back = to_theirs(rules, dict(reversed(ours.items())), levels=2)
    assert back.keys() == {"a.0.qkv.bias"} and torch.equal(back["a.0.qkv.bias"], torch.arange(6.0))
    with pytest.raises(ValueError, match=r"a.0.qkv.bias of the sizes \[5\] is not 3 tensors in one"):
        to_ours(rules, {"a.0.qkv.bias": torch.zeros(5)}, levels=2)


# ---------------------------------------------------------------------------------------------------------- training

SMALL = ["trainer=debug", "data.image_size=32", "model.latent_dim=8", "model.codebook_size=16"]
NETWORKS = {
    "cnn": ["backbone=cnn_f4", "backbone.encoder.channels=8", "backbone.encoder.num_blocks=1"],
    "magvit": ["backbone=openmagvit2_f8", "backbone.encoder.channels=8", "backbone.encoder.dim=8",
               "backbone.encoder.num_blocks=1", "tokenizer.to_latent=null", "tokenizer.from_latent=null"],
}  # fmt: skip
TRAINED = {  # family: networks, further keys, and arguments for its file
    "ibq": ("cnn", ["quantizer=ibq"], {"family": "ibq"}),
    "gumbel": ("cnn", ["quantizer=gumbel"], {}),
    "taming_ema": ("cnn", ["quantizer=vq_ema", "quantizer.ema_decay=0.99", "quantizer.restart=null"], {}),
    "openmagvit2": ("magvit", ["quantizer=lfq"], {"family": "openmagvit2"}),
    "rqvae": ("cnn", ["quantizer=residual", "quantizer.head.restart=1.0", "+quantizer.head.restart_unit=vector"], {}),
    "var": ("cnn", ["quantizer=multiscale", "quantizer.schedule=[1,2,8]", "tokenizer.to_latent.kernel_size=3",
                    "+tokenizer.to_latent.padding=1"], {"config": {"v_patch_nums": [1, 2, 8]}}),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_training_goes_on_from_a_file(compose, tmp_path, name):
    networks, keys, given = TRAINED[name]
    overrides = [*SMALL, *NETWORKS[networks], *keys, f"run.dir={tmp_path}/run", f"model.init={tmp_path}/model.ckpt"]
    config = compose("train", *overrides)
    config.model.family, config.model.family_config = given.get("family"), given.get("config")
    lit = run.build_module(config)
    tokenizer = lit.tokenizer.eval()
    rules = next(known for known in families.FAMILIES if known.name == name).rules
    written = to_theirs(rules, tokenizer.state_dict(), len(tokenizer.decoder.levels))
    torch.save({"state_dict": {key: t.contiguous() * 1.5 for key, t in written.items()}}, tmp_path / "model.ckpt")
    if name in ("openmagvit2", "var"):
        run.train(config, overrides)
        return
    slim_checkpoint.load_slim(lit, tmp_path / "model.ckpt", config.model.family, config.model.family_config)
    loaded, trained = vistok.load(tmp_path / "model.ckpt", **given).state_dict(), lit.tokenizer.state_dict()
    assert loaded.keys() == trained.keys() and all(torch.equal(trained[key], t) for key, t in loaded.items())
