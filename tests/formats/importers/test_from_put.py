"""PUT's P-VQVAE of both generations: the authors' codes, images and gradients, written back, and refusals."""

import json

import pytest
import torch
import yaml
from safetensors.torch import save_file

import vistok
from vistok.formats import families, native
from vistok.formats.exporters import to_published
from vistok.formats.importers import from_put
from vistok.formats.importers.hyperparameters import Unknown
from vistok.quantizers import Context, VectorQuantizer

from ...conftest import SHARED

GOLDEN = ("put_pvqvae", "put_pvqvae_tpami")
SPLIT = {"quantizer": {"masked_embed_start": 64}}
SIZES = {"put_pvqvae": (2, 0, "transposed"), "put_pvqvae_tpami": (1, 2, "nearest")}


@pytest.fixture(params=GOLDEN)
def model(request, family, tmp_path):
    """A tokenizer, its published weights, and the authors' inputs and outputs."""
    weights, io = family(request.param)
    save_file(weights, tmp_path / "put.safetensors")
    return request.param, vistok.load(tmp_path / "put.safetensors", config=SPLIT), weights, io


def close(a, b, atol=2e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_the_authors_codes_and_images(model, tmp_path):
    name, tokenizer, weights, io = model
    assert families.family_of(weights) == "put"
    decoder = tokenizer.decoder
    assert (decoder.num_blocks, decoder.level_blocks, decoder.upsample) == SIZES[name]
    images, mask, erased = io["images"], io["mask"].bool(), io["erase_mask"].bool()
    visible = Context(images=images, mask=mask)
    with torch.no_grad():
        close(tokenizer.encode(images), io["latent"])
        quantized = tokenizer.quantize(images, context=Context(mask=erased))
        assert torch.equal(quantized.codes[:, 0], io["codes"])
        close(quantized.latent, io["quantized"], 1e-6)
        close(tokenizer.decoder_output(quantized.latent, context=visible), io["decoder_output"])
        plain = tokenizer.tokenize(images)
        assert torch.equal(plain[:, 0], io["codes_unerased"])
        close(tokenizer.detokenize(plain, context=visible), io["reconstruction_unerased"])
        alone = tokenizer.detokenize(plain[1:2])
        close(alone, io["decoder_output_all_hidden"].clamp(-1, 1))
        close(tokenizer.detokenize(io["codes"][:, None], context=visible), io["decoded_from_codes"])
        seen = tokenizer.decoder.side_maps(io["masked_image"])
        for i, own in enumerate(seen):
            close(own, io[f"side.{i}"])
        hidden = torch.where(mask, images, -1)
        features = tokenizer.quantize(hidden, context=Context(mask=mask))
        assert torch.equal(features.codes[:, 0], io["features.codes"])
        close(features.latent, io["features.quantized"], 1e-6)
    ours = vistok.load(native.save(tokenizer, tmp_path / "ours"))
    again, codes = ours.reconstruct(images, Context(mask=mask))
    assert torch.equal(codes.codes, tokenizer.tokenize(images, Context(mask=mask)))
    assert torch.equal(again, tokenizer.reconstruct(images, Context(mask=mask))[0])


def test_codes_of_patches_that_touch_the_mask_are_the_last(model):
    _, tokenizer, _, io = model
    codes = tokenizer.tokenize(io["images"], Context(mask=io["erase_mask"].bool()))
    known = io["token_type_erase"] == 1
    assert (codes[known] < 64).all() and (codes[~known] >= 64).all()
    assert known.any() and (io["token_type_erase"] == 2).any() and (io["token_type_erase"] == 0).any()


def test_losses_and_moving_averages_of_a_step(family, tmp_path):
    """One step of training, with the two losses that need no other network."""
    weights, io = family("put_pvqvae")
    save_file(weights, tmp_path / "put.safetensors")
    tokenizer = vistok.load(tmp_path / "put.safetensors", config=SPLIT).requires_grad_(True).train()
    images, mask, erased = io["images"], io["mask"].float(), io["erase_mask"].bool()
    quantized = tokenizer.quantize(images, context=Context(mask=erased))
    close(quantized.losses["commitment"], io["train.loss.quantize_loss"][0], 1e-6)
    output = tokenizer.decoder_output(quantized.latent, context=Context(images=images, mask=mask.bool()))
    a, b = (own.clamp(-1, 1) / 2 + 0.5 for own in (output, images))
    reconstruction = (a - b).abs().mean() / (1 - mask).mean()
    close(reconstruction, io["train.loss.rec_loss"][0], 1e-6)
    gradient = io["train.loss.loss"][0] - io["train.loss.rec_loss"][0] - io["train.loss.quantize_loss"][0]
    assert abs(float(gradient - io["train.loss.grad_loss"][0])) < 1e-5  # the only other term
    moved = tokenizer.quantizer.update(quantized.stats)
    assert moved == {}
    for theirs, ours in from_put.HEAD.items():
        parts = [tokenizer.quantizer.state_dict()[f"{part}.{ours}"] for part in from_put.PARTS]
        torch.testing.assert_close(torch.cat(parts), io[f"train.after.quantize.{theirs}"], rtol=2e-5, atol=2e-6)


def test_written_back(model, tmp_path):
    name, tokenizer, weights, _ = model
    to_published.save(tokenizer, tmp_path / "put", family="put")
    theirs = torch.load(tmp_path / "put" / "model.pth", weights_only=True)["model"]
    assert theirs.keys() == weights.keys()
    assert all(torch.equal(own, weights[name]) for name, own in theirs.items())
    params = yaml.safe_load((tmp_path / "put" / "config.yaml").read_text())["model"]["params"]
    config = json.loads((SHARED / "golden" / f"{name}.json").read_text())["config"]
    for part in ("encoder", "decoder", "quantizer"):
        written = params[f"{part}_config"]["params"]
        assert all(config[part].get(key, value) == value for key, value in written.items())
    assert torch.equal(vistok.load(tmp_path / "put").tokenize(torch.zeros(1, 3, 16, 16)),
                       tokenizer.tokenize(torch.zeros(1, 3, 16, 16)))  # fmt: skip


def test_refusals(model, tmp_path):
    _, tokenizer, weights, _ = model
    path = tmp_path / "put.safetensors"
    with pytest.raises(Unknown, match=r"do not determine quantizer.masked_embed_start: give config="):
        vistok.load(path)
    size = len(weights["quantize.embedding"])
    with pytest.raises(ValueError, match=f"masked_embed_start must be below the {size} codes, not {size}"):
        vistok.load(path, config={"quantizer": {"masked_embed_start": size}})
    with pytest.raises(ValueError, match=r"im_process_info.scale must be 127.5"):
        vistok.load(path, config=SPLIT | {"im_process_info": {"scale": [255.0] * 3}})
    tokenizer.quantizer = VectorQuantizer(8, tokenizer.quantizer.dim)
    with pytest.raises(ValueError, match="cannot represent a VectorQuantizer, only for a MaskedQuantizer"):
        from_put.write(tokenizer)


@pytest.mark.parametrize("size, known", from_put.SPLITS.items())
def test_published_codebooks_need_no_setting(size, known):
    tensors = {f"quantize.{name}": torch.arange(size) for name in from_put.HEAD}
    from_put.prepare(tensors, {})
    assert tensors["quantize.known.embedding"].tolist() == list(range(known))
    assert tensors["quantize.hidden.cluster_size"].tolist() == list(range(known, size))
    shapes = {f"quantizer.{part}.table": (own, 4) for part, own in (("known", known), ("hidden", size - known))}
    assert from_put.two_ranges(shapes) == (size == 9216)
