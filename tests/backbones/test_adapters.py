"""FQGAN's branched encoder: published sizes, and the outputs of the authors' own code."""

import re
from functools import partial

import pytest
import torch
from torch import nn

import vistok
from vistok import Tokenizer, configuration
from vistok.backbones import BranchedEncoder, CNNDecoder
from vistok.formats import native
from vistok.losses import FeaturePrediction
from vistok.quantizers import VectorQuantizer, factorized

F8 = {"multipliers": (1, 2, 2, 4), "attention": (3,)}
TINY = {"channels": 8, "multipliers": (1, 1, 2), "num_blocks": 1, "attention": (2,)}


@pytest.mark.parametrize("arguments, count", [
    ({}, 68_573_952),  # dual VQ-16
    ({**F8, "grid": 32}, 68_621_440),  # dual VQ-8
    ({"branches": 3, "dim": 768}, 88_802_304),  # triple VQ-16, published as 88.8 M
])  # fmt: skip
def test_published_parameter_counts(arguments, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in BranchedEncoder(**arguments).parameters()) == count


def ours(key, names):
    """FQGAN's name of a tensor to ours; ``names`` are its sub-codebooks in the order of the channels."""
    for i, name in enumerate(names):
        head = {"vis": "visual_head"}.get(name, name.replace("sem", "semantic_head"))
        key = key.replace(f"encoder.{head}.0.", f"encoder.tails.{i}.adapter.")
        key = re.sub(rf"encoder\.(norm|conv)_out_{name}\.", rf"encoder.tails.{i}.\1_out.", key)
        key = key.replace(f"quantize_{name}.embedding.weight", f"quantizer.heads.{i}.table")
    for pattern, replacement in (
        (r"\.conv_blocks\.(\d+)\.res\.", r".levels.\1.blocks."),
        (r"\.conv_blocks\.(\d+)\.attn\.", r".levels.\1.attentions."),
        (r"\.conv_blocks\.(\d+)\.(down|up)sample\.", r".levels.\1.resample."),
        (r"(mid\.\d|attentions\.\d)\.proj_out\.", r"\1.out."),
        (r"^post_quant_conv\.", "from_latent."),
        (r"\.positional_embedding$", ".positions.table"),
        (r"\.ln_pre\.", ".norm_in."),
        (r"\.ln_post\.", ".norm_out."),
        (r"\.transformer\.(\d)\.", r".blocks.\1."),
        (r"\.attn\.in_proj_", ".attention.qkv."),
        (r"\.attn\.out_proj\.", ".attention.out."),
        (r"\.ln_(\d)\.", r".norm\1."),
        (r"\.mlp\.c_fc\.", ".mlp_in."),
        (r"\.mlp\.c_proj\.", ".mlp_out."),
    ):
        key = re.sub(pattern, replacement, key)
    return key


@pytest.mark.parametrize("name, names, size", [
    ("fqgan_dual", ("vis", "sem"), 128),
    ("fqgan_triple", ("vis", "sem_mid", "sem_high"), 96),
])  # fmt: skip
def test_whole_models(family, close, name, names, size):
    theirs, io = family(name)
    k = len(names)
    weights = {
        ours(key, names): tensor.T.unflatten(1, (4, 4)) if key.endswith("positional_embedding") else tensor
        for key, tensor in theirs.items()
        if not re.search(r"feat_pred|codebook_used|^quant_conv", key)
    }
    for part in ("weight", "bias"):
        weights[f"to_latent.{part}"] = torch.cat([theirs[f"quant_conv_{branch}.{part}"] for branch in names])
    arguments = {"channels": 32, "multipliers": (1, 1, 1, 1), "num_blocks": 1, "attention": (3,)}
    tokenizer = Tokenizer(
        BranchedEncoder(**arguments, dim=32 * k, branches=k, grid=4, depth=2, heads=4),
        factorized(partial(VectorQuantizer, size, cosine=True), k, 8 * k),
        CNNDecoder(**arguments, dim=32),
        nn.Conv2d(32 * k, 8 * k, 1, groups=k),
        nn.Conv2d(8 * k, 32, 1),
    )
    tokenizer.load_state_dict(weights)
    tokenizer.eval()
    with torch.no_grad():
        for part, branch in zip(tokenizer.quantizer.split(tokenizer.encode(io["images"])), names, strict=True):
            close(part, io[f"latent.{branch}"])
        reconstruction, quantized = tokenizer(io["images"])
        assert torch.equal(quantized.codes, io["codes"])
        close(quantized.latent, io["quantized"])
        torch.testing.assert_close(reconstruction, io["reconstruction"], rtol=0, atol=1e-4)
        from_codes = tokenizer.decode(tokenizer.quantizer.lookup(io["codes"]))
        torch.testing.assert_close(from_codes, io["decoded_from_codes"], rtol=0, atol=1e-4)
        assert torch.equal(tokenizer.fold().tokenize(io["images"]), io["codes"])


def test_branches_are_independent():
    """A branch's gradient reaches its own channels of the latent only, through the grouped map as well."""
    torch.manual_seed(0)
    encoder = BranchedEncoder(**TINY, dim=12, branches=3, grid=4, depth=1)
    to_latent = nn.Conv2d(12, 6, 1, groups=3)
    latent = to_latent(encoder(torch.randn(1, 3, 16, 16)))
    for i, part in enumerate(latent.chunk(3, dim=1)):
        gradients = torch.autograd.grad(part.sum(), [t.conv_out.weight for t in encoder.tails], retain_graph=True,
                                        materialize_grads=True)  # fmt: skip
        assert [bool(gradient.any()) for gradient in gradients] == [i == j for j in range(3)]


def test_positions_of_other_sizes():
    """Interpolated, so that a ramp over the grid stays one away from the border."""
    torch.manual_seed(0)
    encoder = BranchedEncoder(**TINY, dim=4, branches=1, grid=8, depth=1).eval()
    images = torch.randn(2, 3, 32, 48)
    assert encoder(images).shape == (2, 4, 8, 12)
    positions = encoder.tails[0].adapter.positions
    positions.table.data.copy_(torch.arange(8.0).expand_as(positions.table))
    assert torch.equal(positions(torch.empty(1, 16, 8, 8)), positions.table)
    doubled = positions(torch.empty(1, 16, 16, 16))
    expected = (torch.arange(16.0)[4:-4] / 2 - 0.25).expand(16, 8, 8)
    torch.testing.assert_close(doubled[:, 4:-4, 4:-4], expected, rtol=0, atol=0.05)  # bicubic bends it a little
    positions.table.data.zero_()
    nowhere = encoder(images)
    positions.table.data.normal_()
    assert (encoder(images) - nowhere).abs().max() > 1e-3  # the interpolated ones take part


def test_exported_and_loaded(tmp_path):
    torch.manual_seed(0)
    encoder = BranchedEncoder(**TINY, dim=8, branches=2, grid=4, depth=1)
    decoder = CNNDecoder(**TINY, dim=4)
    head = factorized(partial(VectorQuantizer, 16, cosine=True), 2, 4)
    tokenizer = Tokenizer(encoder, head, decoder, nn.Conv2d(8, 4, 1, groups=2), nn.Conv2d(4, 4, 1)).eval()
    loaded = vistok.load(native.save(tokenizer, tmp_path))
    images = torch.randn(1, 3, 16, 24).clamp(-1, 1)
    assert torch.equal(loaded.tokenize(images), tokenizer.tokenize(images))


@pytest.mark.parametrize("arguments, message", [
    ({"branches": 3}, "branches=3 does not divide the latent's dim=512"),
    ({"branches": 0}, "branches=0 does not divide"),
    ({"heads": 7}, "heads=7 does not divide the 512 channels"),
    ({"attention": (5,)}, r"levels \[5\]"),
])  # fmt: skip
def test_wrong_arguments(arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        BranchedEncoder(**arguments)


@pytest.mark.parametrize("recipe, predictors, total", [
    ("fqgan_dual_f16_imagenet256", (1024,), 150_410_131),
    ("fqgan_dual_f8_imagenet256", (1024,), 150_209_427),
    ("fqgan_triple_f16_imagenet256", (384, 768), 159_295_515),
    ("fqgan_triple_f8_imagenet256", (384, 768), 159_586_331),  # published as 159.6 M
])  # fmt: skip
def test_recipes_have_the_published_sizes(compose, recipe, predictors, total):
    """With the predictors, whose widths are those of the published teachers."""
    config = compose("train", f"experiment={recipe}", "data=folder", "data.root=x")
    losses = config.loss.latent_losses.values()
    with torch.device("meta"):
        tokenizer = configuration.instantiate(config.tokenizer)
        heads = [FeaturePrediction(loss.dim // loss.num_parts, width, loss.grid)
                 for loss, width in zip(losses, predictors, strict=True)]  # fmt: skip
        latent = tokenizer.encode(torch.empty(1, 3, 256, 256))
    assert sum(p.numel() for part in (tokenizer, *heads) for p in part.parameters()) == total
    k, side = len(predictors) + 1, 256 // tokenizer.factor
    assert latent.shape == (1, 8 * k, side, side) and tokenizer.quantizer.codebook_sizes == (16384,) * k
    assert config.backbone.encoder.grid == side and {loss.grid for loss in losses} == {side}
    assert [(loss.num_parts, loss.part) for loss in losses] == [(k, i) for i in range(1, k)]
