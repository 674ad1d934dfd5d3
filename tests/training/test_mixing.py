"""Any encoder with any decoder and any head, by config."""

import itertools
from pathlib import Path

import pytest
import torch

from vistok.training import run

CONFIGS = Path(__file__).parent.parent.parent / "configs"
SMALL = {  # overrides that make a backbone small, whatever its key
    "CNNEncoder": {"channels": 8, "multipliers": [1, 2, 2, 2], "num_blocks": 1, "attention": [], "dim": 16},
    "MagvitEncoder": {"channels": 8, "multipliers": [1, 2, 2, 2], "num_blocks": 1, "dim": 16},
    "MaskGITEncoder": {"channels": 8, "multipliers": [1, 2, 2, 2], "num_blocks": 1, "dim": 16},
    "ViTEncoder": {"dim": 16, "depth": 1, "num_heads": 1, "head_dim": 16, "image_size": 32},
    "HierarchicalEncoder": {"channels": 8, "multipliers": [1, 2, 2, 2, 2], "num_blocks": 1, "attention": [], "dim": 16},
    "BranchedEncoder": {"channels": 8, "multipliers": [1, 2, 2, 2], "num_blocks": 1, "attention": [], "dim": 32},
}
F8 = {  # one backbone of every kind, at f8
    "cnn": "cnn_f8",
    "magvit": "magvit_f8",
    "vit": "vit_s8",
    "hierarchical": "hierarchical_dual",
    "branched": "fqgan_f8",
}
MORE = F8 | {"maskgit": "maskgit_f16"}  # whose convolutions are like those of others
HEADS = sorted(path.stem for path in (CONFIGS / "quantizer").glob("*.yaml"))


def shrink(node):
    """Make the backbone at a config node small."""
    encoder = node.encoder
    encoder.update(SMALL[encoder._target_.rpartition(".")[2]])
    if "depth" in encoder and "branches" in encoder:
        encoder.update({"depth": 1, "heads": 4, "grid": 4})
    decoder = node.decoder
    if "decoder" in decoder:  # one that adds positions to another
        decoder.decoder.update({"multipliers": [1, 2, 2, 2], "attention": []})
        decoder.grid = 4
    if "multipliers" in decoder:
        decoder.update({"multipliers": [1, 2, 2, 2], "attention": []} if "attention" in decoder else {})
    if isinstance(decoder.dim, int) and "multipliers" in decoder:
        decoder.dim = 16


def build(compose, encoder, decoder, head):
    words = ["trainer=debug", "data.image_size=32", f"backbone={MORE[encoder]}", f"quantizer={head}", "loss=l1"]
    words += ["model.codebook_size=16", "model.latent_dim=8"]
    config = compose("train", *words, *([f"backbone@decoder_backbone={MORE[decoder]}"] if decoder != encoder else []))
    shrink(config.backbone)
    if config.get("decoder_backbone"):
        shrink(config.decoder_backbone)
    if "size" in config.quantizer:
        config.quantizer.size = "XS"
    return run.build(config)


@pytest.mark.parametrize("encoder, decoder", [*itertools.product(F8, F8), ("maskgit", "vit"), ("cnn", "maskgit")])
def test_every_encoder_and_decoder_take_a_step(compose, encoder, decoder):
    data, lit = build(compose, encoder, decoder, "simvq")
    learns(lit)


@pytest.mark.parametrize("encoder, head", itertools.product(F8, HEADS))
def test_every_encoder_and_head_take_a_step(compose, encoder, head):
    data, lit = build(compose, encoder, "cnn", head)
    learns(lit)


def learns(lit):
    """One step down the gradient of the whole loss reaches the first layer and the last, and makes the loss smaller."""
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    tokenizer = lit.tokenizer.train()
    reconstruction, quantized = tokenizer(images)
    assert reconstruction.shape == images.shape
    assert quantized.codes.shape[-2:] == tokenizer.quantizer.layout(4, 4).positions
    loss = (reconstruction - images).square().mean()
    (loss + sum(quantized.losses.values())).backward()
    first, last = next(tokenizer.encoder.parameters()).grad, tokenizer.decoder.last_layer.grad
    assert first.isfinite().all() and first.abs().sum() > 0 and last.abs().sum() > 0
    with torch.no_grad():
        for parameter in tokenizer.decoder.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad / parameter.grad.norm().clamp(min=1e-3)
        again = tokenizer.decode(quantized.latent)
    assert (again - images).square().mean() < loss
