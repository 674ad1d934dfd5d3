"""Published checkpoints: the authors' codes and images, other sizes, containers, and what is refused."""

import json
import time
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import vistok
from vistok import PixelMap, Tokenizer, configuration
from vistok.backbones import (
    BranchedEncoder,
    CNNDecoder,
    CNNEncoder,
    HierarchicalEncoder,
    MagvitDecoder,
    MagvitEncoder,
    PositionalDecoder,
    ViTDecoder,
    ViTEncoder,
)
from vistok.evaluation.evaluate import evaluate
from vistok.formats import families, native, tokenizer_paths
from vistok.formats.importers import (
    from_bsqvit,
    from_diffusers,
    from_dqvae,
    from_enhancing,
    from_fqgan,
    from_janus,
    from_llamagen,
    from_simvq,
    from_taming,
)
from vistok.formats.importers.hyperparameters import Unknown
from vistok.formats.importers.key_map import Rule, to_ours, to_theirs
from vistok.pretrained import WeightsUnavailable
from vistok.quantizers import (
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
from vistok.training import run, slim_checkpoint
from vistok.untrusted import bounded_network

from ..conftest import SHARED

NORM, HEADS_OF_64 = {"normalization_type": "group-32"}, {"dim_head": 64}
MODELS = {  # golden file: the family that its keys speak for, and what has to be given beside the file
    "taming_vqgan": ("taming", {"family": "taming"}),
    "ldm_vq": ("taming", {}),
    "llamagen_vq": ("llamagen", {}),
    "simvq": ("simvq", {}),
    "fvq_vit": ("fvq", {}),
    "fvq_dit": ("fvq", {}),
    "fvq_vit_converted": ("llamagen", {"family": "fvq"}),
    "fvq_dit_converted": ("llamagen", {"config": {"codebook_l2_norm": False}}),
    "fqgan_dual": ("fqgan_dual", {"config": {"adapter": {"heads": 4}}}),
    "fqgan_triple": ("fqgan_triple", {"config": {"adapter": {"heads": 4}}}),
    "dqvae_dual_feat": ("dqvae_dual", {"config": {"router": NORM}}),
    "dqvae_dual_entropy": ("dqvae_dual", {"config": {"thresholds": [1.8225123882293701]}}),
    "dqvae_triple_feat": ("dqvae_triple", {"config": {"router": NORM | {"gate_type": "2layer-fc-SiLu"}}}),
    "enhancing_vitvqgan": ("enhancing", {"config": {"use_norm": True, "encoder": HEADS_OF_64, "decoder": HEADS_OF_64}}),
    "diffusers_vqmodel": ("diffusers", {"config": {"norm_num_groups": 16}}),
    "janus_vqvae": ("janus", {}),
    "bsqvit": ("bsqvit", {"config": {"vitconfig": {"heads": 4}}}),
    "maskgit_vqgan": ("maskgit", {}),
}


def shaped(codes, like):
    """Our codes (b, k, h, w) as the authors' are laid out."""
    return codes.reshape(like.shape)


@pytest.mark.parametrize("name", MODELS)
def test_the_authors_codes_and_images(family, close, tmp_path, name):
    weights, io = family(name)
    recognised, given = MODELS[name]
    assert families.family_of(weights) == recognised
    everything = {"family": name, "config": json.loads((SHARED / "golden" / f"{name}.json").read_text())["config"]}
    save_file(weights, tmp_path / "model.safetensors")
    torch.save({"state_dict": weights, "epoch": 3, "loss": nn.L1Loss}, tmp_path / "last.ckpt")
    for file, arguments in (("model.safetensors", given), ("last.ckpt", everything)):
        tokenizer = vistok.load(tmp_path / file, **arguments)
        assert not tokenizer.training and not any(p.requires_grad for p in tokenizer.parameters())
        with torch.no_grad():
            reconstruction, quantized = tokenizer(io["images"])
            assert torch.equal(shaped(quantized.codes, io["codes"]), io["codes"])
            theirs = io.get("decoder_output", io["reconstruction"])  # unclamped
            torch.testing.assert_close(reconstruction, theirs, rtol=0, atol=1e-4)
            decoded = tokenizer.decode(tokenizer.quantizer.lookup(quantized.codes))
            torch.testing.assert_close(decoded, reconstruction, rtol=0, atol=1e-5)
            from_codes = io.get("decoded_from_codes") if name != "simvq" else io["decoded_from_projected_codes"]
            if from_codes is not None and name != "janus_vqvae":
                decoded = decoded.clamp(-1, 1) if name in ("bsqvit", "maskgit_vqgan") else decoded
                torch.testing.assert_close(decoded, from_codes, rtol=0, atol=1e-4)
    again = vistok.load(native.save(tokenizer, tmp_path / "ours"))
    assert torch.equal(again.tokenize(io["images"]), quantized.codes)
    assert torch.equal(again.detokenize(quantized.codes), tokenizer.detokenize(quantized.codes))


def test_raw_weights(family, tmp_path):
    weights, io = family("simvq")
    save_file(weights, tmp_path / "model.safetensors")
    tokenizer = vistok.load(tmp_path / "model.safetensors", weights="raw")
    assert torch.equal(tokenizer.tokenize(io["images"])[:, 0], io["raw.codes"])
    averaged = vistok.load(tmp_path / "model.safetensors")
    assert torch.equal(averaged.quantizer.basis, tokenizer.quantizer.basis)  # frozen: it has no average
    assert not torch.equal(averaged.quantizer.projection.weight, tokenizer.quantizer.projection.weight)


# ------------------------------------------------------------------------------- without golden files: other sizes

CNN = {"channels": 12, "multipliers": (1, 2, 3), "num_blocks": 2, "attention": (1, 2), "dim": 10}
DOWN = CNN | {"num_blocks": 1}  # another depth than the decoder's
UP = CNN | {"multipliers": (1, 1, 4), "num_blocks": 3, "attention": (0, 2)}


def cnn(head, down=DOWN, up=UP):
    side = 1 if isinstance(head, SimVQ) else 3  # of the kernels
    maps = nn.Conv2d(10, head.dim, side, padding=side // 2), nn.Conv2d(head.dim, 10, 1)
    return Tokenizer(CNNEncoder(**down), head, CNNDecoder(**up), *maps)


def make_simvq():
    sizes = {"channels": 8, "num_blocks": 3, "dim": 6}
    return Tokenizer(MagvitEncoder(multipliers=(1, 3), **sizes), SimVQ(40, 6),
                     MagvitDecoder(multipliers=(2, 1), **sizes))  # fmt: skip


def make_fqgan(k):
    encoder = BranchedEncoder(**CNN | {"dim": 6 * k, "attention": (2,)}, branches=k, grid=5, depth=1, heads=3)
    head = factorized(partial(VectorQuantizer, 30, cosine=True), k, 4 * k)
    return Tokenizer(encoder, head, CNNDecoder(**UP | {"dim": 7}), nn.Conv2d(6 * k, 4 * k, 1, groups=k),
                     nn.Conv2d(4 * k, 7, 1))  # fmt: skip


def make_dqvae(grains, router):
    encoder = HierarchicalEncoder(8, (1, 1, 2, 3), 2, (2, 3), 12, num_maps=grains)
    head = VectorQuantizer(20, 6, ema_decay=0.99, restart=1.0, restart_unit="vector", weighted_counts=False)
    nn.init.normal_(head.codewords)
    up = CNNDecoder(8, (1, 2, 2)[: 5 - grains], 1, (0,), 12)
    decoder = PositionalDecoder(up, 12, 8)
    return Tokenizer(encoder, DynamicQuantizer(head, router, projection=nn.Conv2d(12, 6, 1)), decoder,
                     from_latent=nn.Conv2d(6, 12, 1))  # fmt: skip


def make_enhancing():
    size = {"num_heads": 3, "head_dim": 8, "patch": 4, "image_size": 24, "positions": "sincos", "activation": "tanh"}
    size |= {"qkv_bias": False, "output_mlp_ratio": None}
    head = VectorQuantizer(30, 6, cosine=True, raw_gradient=True)
    return Tokenizer(ViTEncoder(dim=20, depth=1, mlp_ratio=1.5, **size), head,
                     ViTDecoder(dim=28, depth=3, mlp_ratio=3, **size), nn.Conv2d(20, 6, 1), nn.Conv2d(6, 28, 1),
                     PixelMap(0.5, 0.5))  # fmt: skip


def make_bsqvit():
    size = {"num_heads": 3, "head_dim": 8, "patch": 4, "image_size": 24, "pre_norm": True}
    return Tokenizer(ViTEncoder(dim=24, depth=1, mlp_ratio=1.5, output_mlp_ratio=None, **size),
                     BinaryQuantizer(12, group=3),
                     ViTDecoder(dim=48, depth=2, mlp_ratio=3, output_mlp_ratio=2, **size | {"head_dim": 16}),
                     nn.Conv2d(24, 12, 1), nn.Conv2d(12, 48, 1))  # fmt: skip


FVQ = (*from_llamagen.RULES, *from_llamagen.BRIDGE)
HEADS = {"encoder": {"heads": 3, "dim_head": 8}, "decoder": {"heads": 3, "dim_head": 8}}
NORMS, GREY = {"norm_groups": 4}, {"in_channels": 1}
OURS = [  # name, its table, a tokenizer of odd sizes, and what has to be said of it
    ("taming", from_taming.RULES, lambda: cnn(VectorQuantizer(50, 7)), {"family": "taming"}),
    ("taming", from_taming.RULES, lambda: cnn(VectorQuantizer(50, 7), DOWN | {"mid_attention": False}), {}),
    ("taming", from_taming.RULES, lambda: cnn(VectorQuantizer(9, 1), DOWN | GREY, UP | {"out_channels": 1}),
     {"family": "taming"}),
    ("llamagen", from_llamagen.RULES, lambda: cnn(VectorQuantizer(50, 8, cosine=True)), {}),
    ("llamagen", from_llamagen.RULES, lambda: cnn(VectorQuantizer(50, 5)), {"family": "fvq"}),
    ("fvq", FVQ, lambda: cnn(VQBridge(144, 5, "XS", 3, 1, "vit")), {}),
    ("fvq", FVQ, lambda: cnn(VQBridge(36, 5, "S", 2, 3, "dit")), {}),
    ("janus", from_janus.RULES, lambda: cnn(JanusQuantizer(50, 5)), {}),
    ("janus", from_janus.RULES, lambda: cnn(VectorQuantizer(50, 5, cosine=True)),
     {"config": {"codebook_l2_norm": True}}),
    ("diffusers", from_diffusers.RULES, lambda: cnn(VectorQuantizer(50, 5), DOWN | NORMS, UP | NORMS),
     {"config": {"norm_num_groups": 4}}),
    ("simvq", from_simvq.RULES, make_simvq, {}),
    ("fqgan_dual", from_fqgan.DUAL, lambda: make_fqgan(2),
     {"config": {"adapter": {"heads": 3}, "codebook_l2_norm": True}}),
    ("fqgan_triple", from_fqgan.TRIPLE, lambda: make_fqgan(3),
     {"config": {"adapter": {"heads": 3}, "codebook_l2_norm": True}}),
    ("dqvae_dual", from_dqvae.DUAL, lambda: make_dqvae(2, FeatureRouter(12, 2, 3)),
     {"config": {"router": {"normalization_type": "group-3"}}}),
    ("dqvae_dual", from_dqvae.DUAL, lambda: make_dqvae(2, FeatureRouter(12, 2, None)), {}),  # no norms
    ("dqvae_triple", from_dqvae.TRIPLE, lambda: make_dqvae(3, FeatureRouter(12, 3, 4, "relu")),
     {"config": {"router": {"normalization_type": "group-4", "gate_type": "2layer-fc-ReLu"}}}),
    ("dqvae_triple", from_dqvae.TRIPLE, lambda: make_dqvae(3, EntropyRouter([0.5, 1.5], 8, 0.0, 1.0)),
     {"config": {"thresholds": [0.5, 1.5], "router": {"bins": "linspace(0,1,32)"}}}),
    ("enhancing", from_enhancing.RULES, make_enhancing, {"config": HEADS | {"use_norm": True}}),
    ("bsqvit", from_bsqvit.RULES, make_bsqvit, {"config": {"vitconfig": {"heads": 3}, "embed_group_size": 3}}),
]  # fmt: skip


def published(tokenizer, rules):
    """A tokenizer's tensors as its family's authors would have saved them."""
    levels = len(tokenizer.decoder.levels) if hasattr(tokenizer.decoder, "levels") else 0
    if isinstance(tokenizer.decoder, PositionalDecoder):
        levels = len(tokenizer.decoder.decoder.levels)
    theirs = to_theirs(rules, tokenizer.state_dict(), levels)
    if getattr(tokenizer.encoder, "positions", None) == "sincos":
        for name, part in zip(from_enhancing.POSITIONS, (tokenizer.encoder, tokenizer.decoder), strict=True):
            grid = part.transformer.positions(torch.empty(1, part.dim, 6, 6))
            theirs[name] = grid.flatten(1).T[None]
    return {name: t.contiguous() for name, t in theirs.items()}


@pytest.mark.parametrize("name, rules, make, given", OURS, ids=[f"{case[0]}{i}" for i, case in enumerate(OURS)])
def test_other_sizes(tmp_path, name, rules, make, given):
    torch.manual_seed(0)
    tokenizer = make().eval()
    for parameter in tokenizer.parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.1)  # a bridge's last layer, biases
    theirs = published(tokenizer, rules)
    assert families.family_of(theirs) == name
    torch.save({"model": {k: t.half() for k, t in theirs.items()}, "ema": theirs, "steps": 5}, tmp_path / "model.pt")
    loaded = vistok.load(tmp_path / "model.pt", **given)
    assert published(loaded, rules).keys() == theirs.keys()
    for key, tensor in tokenizer.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    images = torch.rand(2, tokenizer.encoder.in_channels, 32, 48) * 2 - 1
    reconstruction, quantized = tokenizer(images)
    again, codes = loaded(images).reconstruction, loaded.tokenize(images)
    assert torch.equal(codes, quantized.codes) and torch.equal(again, reconstruction)
    assert len(codes.unique()) > 1


ASKED = [  # what keys do not determine, the message about it, and another value, which must give other codes
    ("dqvae_dual_feat", {}, r"do not determine router.normalization_type: give config=.*'group-16' or 'group-32'",
     {"router": {"normalization_type": "group-8"}}),
    ("dqvae_triple_feat", {"router": NORM}, r"router.gate_type: give .* '2layer-fc-SiLu' or '2layer-fc-ReLu'",
     {"router": NORM | {"gate_type": "2layer-fc-ReLu"}}),
    ("enhancing_vitvqgan", {"encoder": HEADS_OF_64, "decoder": HEADS_OF_64}, "do not determine use_norm: .* true or f",
     {"use_norm": False}),
    ("enhancing_vitvqgan", {"use_norm": True}, "encoder.heads: give .* which times dim_head is 128",
     {"encoder": {"heads": 4}, "decoder": {"heads": 2}}),
    ("diffusers_vqmodel", {}, "norm_num_groups: give .* which config.json in its folder has", {"norm_num_groups": 8}),
]  # fmt: skip


@pytest.mark.parametrize("name, given, message, other", ASKED, ids=[f"{own[0]}{i}" for i, own in enumerate(ASKED)])
def test_nothing_is_assumed(family, tmp_path, name, given, message, other):
    weights, io = family(name)
    save_file(weights, tmp_path / "model.safetensors")
    for arguments in ({}, {"family": name}):  # which says nothing about it
        with pytest.raises(Unknown, match=message):
            vistok.load(tmp_path / "model.safetensors", config=given, **arguments)
    tokenizer = vistok.load(tmp_path / "model.safetensors", config=given | other)
    emitted = tokenizer.to_codes(io["images"])
    assert not torch.equal(shaped(emitted.codes, io["codes"]), io["codes"])


@pytest.mark.parametrize("grains", [2, 3])
def test_the_published_router_is_known_by_its_sizes(grains):
    shapes = {f"encoder.tails.{i}.x.weight": (1,) for i in range(grains)} | {"quantizer.router.norms.0.weight": (256,)}
    assert from_dqvae.gate(shapes, {}, 256, True) == (32, "silu")
    with pytest.raises(Unknown, match="router.normalization_type"):
        from_dqvae.gate(shapes, {}, 256, False)
    with pytest.raises(ValueError, match="normalization_type must be 'group-1' or .*, not 'group-3'"):
        from_dqvae.gate(shapes, {"router": {"normalization_type": "group-3"}}, 256, True)
    relu = {"router": {"gate_type": "2layer-fc-ReLu"}}
    if grains == 3:
        assert from_dqvae.gate(shapes, relu, 256, True) == (32, "relu")
    else:  # the code of two granularities has no such gate
        with pytest.raises(ValueError, match="gate_type must be '2layer-fc-SiLu', not '2layer-fc-ReLu'"):
            from_dqvae.gate(shapes, relu, 256, True)


@pytest.fixture
def llamagen_file(tmp_path):
    torch.manual_seed(0)
    tensors = published(cnn(VectorQuantizer(50, 8, cosine=True)), from_llamagen.RULES)
    tensors["quantize.codebook_used"] = torch.zeros(65536)

    def write(change=lambda tensors: None, wrap=lambda tensors: {"model": tensors}):
        changed = dict(tensors)
        change(changed)
        torch.save(wrap(changed), tmp_path / "vq.pt")
        return tmp_path / "vq.pt"

    return write


@pytest.mark.parametrize("wrap", [
    lambda t: t,
    lambda t: {"state_dict": t},
    lambda t: {"ema": t, "model": {k: v + 1 for k, v in t.items()}},
    lambda t: {"state_dict": {f"module.{k}": v for k, v in t.items()}},
    lambda t: {"model": {f"module._orig_mod.{k}": v for k, v in t.items()}},
    lambda t: {f"gen_vision_model.{k}": v for k, v in t.items()} | {"language_model.x": torch.ones(1)},
])  # fmt: skip
def test_containers(llamagen_file, wrap):
    plain, wrapped = vistok.load(llamagen_file()).state_dict(), vistok.load(llamagen_file(wrap=wrap)).state_dict()
    assert all(torch.equal(wrapped[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["enhancing_vitvqgan", "simvq"])
def test_half_precision(family, tmp_path, name, dtype):
    """Rounded weights give the tokenizer of these rounded weights in float32, fixed positions included."""
    weights, _ = family(name)
    given = MODELS[name][1]
    save_file({key: tensor.to(dtype) for key, tensor in weights.items()}, tmp_path / "half.safetensors")
    save_file({key: tensor.to(dtype).float() for key, tensor in weights.items()}, tmp_path / "full.safetensors")
    half, full = (vistok.load(tmp_path / f"{own}.safetensors", **given).state_dict() for own in ("half", "full"))
    assert half.keys() == full.keys() and all(torch.equal(half[key], full[key]) for key in full)
    assert {tensor.dtype for tensor in half.values()} == {torch.float32}


def test_a_tokenizer_within_a_larger_model_in_several_files(llamagen_file, tmp_path):
    """A file of the language model alone need not be there."""
    plain = vistok.load(llamagen_file())
    tensors = torch.load(llamagen_file())["model"]
    places = {f"gen_vision_model.{name}": "model-00002-of-00002.safetensors" for name in tensors}
    save_file(
        {f"gen_vision_model.{name}": tensors[name] for name in tensors}, tmp_path / "model-00002-of-00002.safetensors"
    )
    places["language_model.layers.0.weight"] = "model-00001-of-00002.safetensors"
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    loaded = vistok.load(index).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in plain.state_dict().items())


def test_the_part_that_is_named(llamagen_file):
    file = llamagen_file(wrap=lambda t: {f"{a}.{k}": v + i for i, a in enumerate("ab") for k, v in t.items()})
    with pytest.raises(ValueError, match="several tokenizers, a, b: give config"):
        vistok.load(file)
    first, second = (vistok.load(file, config={"part": part}).quantizer.codewords for part in "ab")
    torch.testing.assert_close(second, first + 1)


def test_ema_or_raw(llamagen_file):
    file = llamagen_file(wrap=lambda t: {"ema": t, "model": {k: v + 1 for k, v in t.items()}})
    ema, raw = vistok.load(file), vistok.load(file, weights="raw")
    torch.testing.assert_close(raw.quantizer.codewords, ema.quantizer.codewords + 1)
    with pytest.raises(ValueError, match="weights='raw', but it has only ema"):
        vistok.load(llamagen_file(wrap=lambda t: {"ema": t}), weights="raw")
    with pytest.raises(ValueError, match="weights must be one of ema, raw, not 'best'"):
        vistok.load(file, weights="best")


@pytest.mark.parametrize("change, arguments, message", [
    (lambda t: t.update({"encoder.extra.weight": torch.ones(1)}), {}, "no encoder.extra.weight"),
    (lambda t: t.pop("decoder.conv_out.bias"), {}, "decoder.conv_out.bias"),
    (lambda t: t.pop("encoder.conv_in.weight"), {}, "it has no tensor for our encoder.conv_in.weight"),
    (lambda t: t.update({"quant_conv.bias": torch.ones(3)}), {}, "size mismatch for to_latent.bias"),
    (lambda t: t.update({"quant_conv.weight": torch.ones(3)}), {}, r"to_latent.weight cannot have the sizes \[3\]"),
    (lambda t: t.update({"quant_conv.bias": torch.ones(8).int()}), {}, "quant_conv.bias is not a tensor of floats"),
    (lambda t: t.update({"quantize.embedding.weight": torch.ones(50, 7)}), {}, "do not determine codebook_l2_norm"),
    (lambda t: t.update({"model_ema.nothing": torch.ones(1)}), {}, "model_ema.nothing is the average of no tensor"),
    (lambda t: None, {"family": "simvq"}, "family='simvq', but its names are those of llamagen"),
    (lambda t: None, {"family": "gan"}, "family='gan' is not known: bsqvit, "),
    (lambda t: None, {"config": {"codebook_l2_norm": "yes"}}, "codebook_l2_norm must be true or false, not 'yes'"),
    (lambda t: None, {"config": {"input_range": [0, 255]}}, r"input_range must be \[0, 1\] or \[-1, 1\]"),
    (lambda t: [t.pop(k) for k in [*t] if k.startswith("encoder.conv_blocks.1")], {}, r"numbered \[0, 2\]"),
    (lambda t: t.clear(), {}, "it has no tensors"),
    (lambda t: (t.clear(), t.update({"fc.weight": torch.ones(1)})), {}, r"\(fc.weight, ...\) are of no known family"),
    (lambda t: t.update({"encoder.conv_in.weight": torch.ones(12, 48, 3, 3)}), {}, "images would have 48 channels"),
])  # fmt: skip
def test_refusals(llamagen_file, change, arguments, message):
    with pytest.raises(ValueError, match=message):
        vistok.load(llamagen_file(change), **arguments)


@pytest.mark.parametrize("change, message", [
    (lambda t: t.update({"encoder.conv_blocks.999999999.res.0.norm1.weight": torch.ones(4)}), "table of names has no"),
    (lambda t: t.update({"x" * 10**6: torch.ones(4)}), "its table of names has no xxxx"),
    (lambda t: t.update({"\x1b[2J\n": torch.ones(4)}), r"its table of names has no \\x1b\[2J"),
    (lambda t: t.update({"quant_conv.bias": torch.empty(2**40, 0)}), "quant_conv.bias has no values"),
    (lambda t: t.update({f"encoder.conv_blocks.{i}.res.0.norm1.weight": torch.ones(4) for i in range(99)}),
     "it has 99 levels, more than 32|no tensor for our"),
    (lambda t: t.update(dict.fromkeys([*t], torch.ones(2**20))), "its tensors share storages"),
    (lambda t: t.update({3: torch.ones(1), ("a", 2.5): torch.ones(1)}), "its table of names has no"),
])  # fmt: skip
def test_a_small_file_asks_for_nothing(llamagen_file, change, message):
    begin = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        vistok.load(llamagen_file(change))
    assert time.process_time() - begin < 3 and "vq.pt" in str(caught.value)
    assert len(str(caught.value)) < 1_500 and "\n" not in str(caught.value)


def test_a_file_of_too_many_tensors(llamagen_file, monkeypatch):
    monkeypatch.setattr(bounded_network, "MAX_OF_NETWORK", 50)
    with pytest.raises(ValueError, match="vq.pt cannot be imported: it has [0-9]+ tensors, more than 50"):
        vistok.load(llamagen_file())


def test_a_folder_of_diffusers_whose_config_is_wrong(vqmodel_folder):
    folder, _ = vqmodel_folder
    for content, message in (
        ({"input_range": 5}, r"input_range must be \[0, 1\] or \[-1, 1\], not 5"),
        ({"norm_num_groups": [4]}, r"norm_num_groups must be an integer, not \[4\]"),
        ({"norm_num_groups": 10**4000}, "norm_num_groups must be an integer, not 1000"),
        ({"act_fn": {}}, "act_fn={} cannot be imported"),
    ):
        told = {"_class_name": "VQModel", "norm_num_groups": 4}
        (folder / "config.json").write_text(json.dumps(told | content))
        with pytest.raises(ValueError, match=message) as caught:
            vistok.load(folder)
        assert str(folder) in str(caught.value) and len(str(caught.value)) < 1_000
    (folder / "config.json").write_text("[" * 10**5)
    with pytest.raises(ValueError, match="config.json is not JSON"):
        vistok.load(folder)


def test_pixel_range_of_the_config(llamagen_file):
    assert vistok.load(llamagen_file(), config={"input_range": [0, 1]}).pixels == PixelMap(0.5, 0.5)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.ckpt is not an exported tokenizer"):
        vistok.load(tmp_path / "nothing.ckpt")


def test_names_by_hand():
    rules = (Rule("up.{i}.b.{j}.{p}", "levels.{~i}.{j}.{p}"), Rule("q_a", "q#0"), Rule("q_b", "q#1"))
    theirs = {"up.0.b.7.bias": torch.zeros(1), "q_b": torch.ones(2), "q_a": torch.zeros(2)}
    ours = to_ours(rules, theirs, levels=3)
    assert {name: t.tolist() for name, t in ours.items()} == {"levels.2.7.bias": [0], "q": [0, 0, 1, 1]}
    back = to_theirs(rules, ours, levels=3)
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], t) for name, t in theirs.items())
    with pytest.raises(ValueError, match="no up.00.b.1.bias, up.1.b.1.scale"):
        to_ours(rules, {"up.00.b.1.bias": torch.zeros(1), "up.1.b.1.scale": torch.zeros(1)})


# ------------------------------------------------------------------------------------------ folders, hub, training


@pytest.fixture
def vqmodel_folder(tmp_path):
    torch.manual_seed(0)
    tokenizer = cnn(VectorQuantizer(50, 5), DOWN | NORMS, UP | NORMS).eval()
    folder = tmp_path / "vqmodel"
    folder.mkdir()
    save_file(published(tokenizer, from_diffusers.RULES), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps({"_class_name": "VQModel", "norm_num_groups": 4}))
    return folder, tokenizer


def test_a_folder_of_diffusers(vqmodel_folder):
    folder, tokenizer = vqmodel_folder
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(vistok.load(folder)(images).reconstruction, tokenizer(images).reconstruction)


@pytest.mark.parametrize("kind", ["bin", "safetensors index", "bin index", "pipeline", "no config", "file"])
def test_other_folders(vqmodel_folder, tmp_path, kind):
    """The folder's tensors in other files: its config is read in all, unless there is none."""
    folder, tokenizer = vqmodel_folder
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    source, stem = folder, folder / "diffusion_pytorch_model"
    config = {}
    if kind != "file":
        (folder / "diffusion_pytorch_model.safetensors").unlink()
    if kind == "bin":
        torch.save(tensors, f"{stem}.bin")
    elif kind == "pipeline":
        save_file(tensors, f"{stem}.safetensors")
        (tmp_path / "model_index.json").write_text(json.dumps({"movie": 3, "vqmodel": ["diffusers", "VQModel"]}))
        source = tmp_path
    elif kind == "no config":
        torch.save({"state_dict": tensors}, folder / "epoch=3.ckpt")
        (folder / "config.json").unlink()
        config = {"norm_num_groups": 4}
    elif kind == "file":
        source = folder / "diffusion_pytorch_model.safetensors"
    else:
        suffix, save = ("bin", torch.save) if kind == "bin index" else ("safetensors", save_file)
        places = {name: f"part-{i % 2 + 1:05}-of-00002.{suffix}" for i, name in enumerate(tensors)}
        for file in {*places.values()}:
            save({name: tensors[name] for name, place in places.items() if place == file}, folder / file)
        (folder / f"{stem.name}.{suffix}.index.json").write_text(json.dumps({"weight_map": places}))
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(vistok.load(source, config=config).tokenize(images), tokenizer.tokenize(images))


def test_one_file_of_several_says_so(vqmodel_folder):
    folder, _ = vqmodel_folder
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    half = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.")}
    save_file(half, folder / "model-00002-of-00003.safetensors")
    with pytest.raises(ValueError, match="it is one of 3 parts: give their folder or index"):
        vistok.load(folder / "model-00002-of-00003.safetensors")


def test_hub(vqmodel_folder, monkeypatch, tmp_path):
    import huggingface_hub

    folder, tokenizer = vqmodel_folder
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download",
                        lambda repo, allow_patterns: asked.append((repo, allow_patterns)) or str(folder))  # fmt: skip
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: asked.append((repo, file)) or
                        str(folder / "diffusion_pytorch_model.safetensors"))  # fmt: skip
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    codes = tokenizer.tokenize(images)
    assert torch.equal(vistok.load("someone/vq").tokenize(images), codes)
    file = "someone/vq/sub/diffusion_pytorch_model.safetensors"
    assert torch.equal(vistok.load(file, config={"norm_num_groups": 4}).tokenize(images), codes)
    repo, patterns = asked[0]
    assert repo == "someone/vq" and all(name.endswith((".json", ".safetensors")) for name in patterns)
    assert asked[1] == ("someone/vq", "sub/diffusion_pytorch_model.safetensors")
    inner = folder / "inner"
    inner.mkdir()
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (folder / name).rename(inner / name)
    assert torch.equal(vistok.load("someone/vq/inner").tokenize(images), codes)
    assert asked[2][1][:2] == ["inner/config.json", "inner/diffusion_pytorch_model.safetensors"]


def test_an_index_on_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    index, asked = tmp_path / "model.safetensors.index.json", []
    index.write_text(json.dumps({"weight_map": {"a": "b.safetensors", "c": "d.safetensors", "e": "b.safetensors"}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: asked.append(file) or str(index))
    assert tokenizer_paths.find("someone/vq/sub/model.safetensors.index.json").path == index
    assert asked == ["sub/model.safetensors.index.json", "sub/b.safetensors", "sub/d.safetensors"]
    index.write_text(json.dumps({"weight_map": {"a": "../../x.safetensors"}}))
    with pytest.raises(WeightsUnavailable, match="names '../../x.safetensors', which is no file beside it"):
        tokenizer_paths.find("someone/vq/model.safetensors.index.json")


def test_hub_out_of_reach(monkeypatch, tmp_path):
    import huggingface_hub

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        WeightsUnavailable, match=r"someone/vq is neither a local path nor .* \(no network\); give the path"
    ):
        vistok.load("someone/vq")


SMALL = ["trainer=debug", "backbone=cnn_f8", "backbone.encoder.channels=8", "data.image_size=32", "model.latent_dim=8",
         "model.codebook_size=16"]  # fmt: skip


@pytest.fixture
def fitting(compose, tmp_path):
    """A file in LlamaGen's layout that fits ``SMALL`` with a cosine head, and the tokenizer in it."""
    torch.manual_seed(1)
    tokenizer = configuration.instantiate(compose("train", *SMALL, "quantizer=vq_cosine").tokenizer).eval()
    torch.save({"model": published(tokenizer, from_llamagen.RULES)}, tmp_path / "vq.pt")
    return tmp_path / "vq.pt", tokenizer


def test_training_goes_on_from_a_published_file(compose, fitting, tmp_path):
    file, tokenizer = fitting
    overrides = [*SMALL, "quantizer=vq_cosine", f"model.init={file}", "optimizer.lr=0", f"run.dir={tmp_path}/run"]
    run.train(compose("train", *overrides), overrides)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(vistok.load(tmp_path / "run").tokenize(images), tokenizer.tokenize(images))


@pytest.mark.parametrize("overrides, message", [
    (["quantizer=vq"], "tokenizer.quantizer.cosine is True in the file, False here"),
    (["quantizer=vq_cosine", "model.family_config={input_range: [0, 1]}"], "pixels.scale is 0.5 in the file, 1.0 here"),
    (["quantizer=vq_cosine", "backbone.encoder.channels=16"], r"(?s)does not fit the config:.*encoder.conv_in"),
])  # fmt: skip
def test_a_published_file_that_does_not_fit(compose, fitting, overrides, message):
    config = compose("train", *SMALL, *overrides, f"model.init={fitting[0]}")
    lit = run.build_module(config)
    with pytest.raises(ValueError, match=message):
        slim_checkpoint.load_slim(lit, fitting[0], config.model.family, config.model.family_config)


def test_evaluating_a_published_file(compose, fitting, photos, tmp_path):
    file, tokenizer = fitting
    config = compose("eval", f"tokenizer={file}", "data=folder", f"data.root={photos}", "data.image_size=32",
                     "feature_network=none", "metrics.lpips=null", f"run.out={tmp_path}/report.json",
                     "run.device=cpu")  # fmt: skip
    (score,) = evaluate(config)["scores"]
    assert score["metrics"]["images"] == 12
    native.save(tokenizer, tmp_path / "ours")
    config.tokenizer, config.run.out = str(tmp_path / "ours"), str(tmp_path / "again.json")
    (again,) = evaluate(config)["scores"]
    assert again["metrics"]["psnr"] == pytest.approx(score["metrics"]["psnr"], abs=1e-6)


def test_file_names_are_not_believed(llamagen_file, tmp_path):
    """The same tensors, written as safetensors, under another family's name."""
    theirs = torch.load(llamagen_file())["model"]
    save_file(theirs, tmp_path / "simvq.safetensors")
    loaded = vistok.load(tmp_path / "simvq.safetensors")
    table = load_file(tmp_path / "simvq.safetensors")["quantize.embedding.weight"]
    assert loaded.quantizer.cosine and torch.equal(loaded.quantizer.codewords, table)
