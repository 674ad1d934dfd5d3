"""BSQ-ViT with the logit-Laplace likelihood, of which there are no golden files: worked from those without it."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

import vistok
from vistok import Tokenizer, configuration
from vistok.backbones import ViTDecoder, ViTEncoder
from vistok.formats import native
from vistok.formats.exporters import to_published
from vistok.formats.importers import from_bsqvit
from vistok.formats.importers.key_map import to_theirs
from vistok.images.ranges import LogitLaplaceMap, PixelMap
from vistok.quantizers import BinaryQuantizer
from vistok.training import run, slim_checkpoint

HEADS = {"vitconfig": {"heads": 3}}


def make(bits=12, outputs=6, patch=4):
    """A BSQ-ViT with different sizes of encoder and decoder."""
    torch.manual_seed(0)
    size = {"num_heads": 3, "head_dim": 8, "patch": patch, "image_size": 6 * patch, "pre_norm": True}
    up = ViTDecoder(dim=48, depth=2, mlp_ratio=3, output_mlp_ratio=2, out_channels=outputs, **size | {"head_dim": 16})
    pixels = LogitLaplaceMap() if outputs == 6 else PixelMap()
    return Tokenizer(ViTEncoder(dim=24, depth=1, mlp_ratio=1.5, output_mlp_ratio=None, **size), BinaryQuantizer(bits),
                     up, nn.Conv2d(24, bits, 1), nn.Conv2d(bits, 48, 1), pixels).eval()  # fmt: skip


@pytest.fixture
def file(tmp_path):
    def write(tokenizer):
        theirs = to_theirs(from_bsqvit.RULES, tokenizer.state_dict())
        averaged = {f"module.module.{name}": tensor.contiguous() for name, tensor in theirs.items()}
        torch.save({"state_dict": {f"module.{name}": -t for name, t in theirs.items()}, "ema_state_dict": averaged},
                   tmp_path / "checkpoint.pt")  # fmt: skip
        return tmp_path / "checkpoint.pt"

    return write


def test_the_golden_model_with_a_second_half_of_outputs(family, tmp_path):
    """Pixels go through (1 - 2ε) x + ε into the encoder; the first three channels are the logits of such pixels."""
    weights, io = family("bsqvit")
    plain = {"config": {"vitconfig": {"heads": 4}}}
    save_file(weights, tmp_path / "plain.safetensors")
    for name in ("weight", "bias"):  # all μ, then all ln b: channels are the slowest axis of the outputs
        weights[f"decoder.conv_out.{name}"] = torch.cat([weights[f"decoder.conv_out.{name}"]] * 2)
    save_file(weights, tmp_path / "laplace.safetensors")
    before, loaded = (vistok.load(tmp_path / f"{name}.safetensors", **plain) for name in ("plain", "laplace"))
    codes = io["codes"].reshape(4, 1, 4, 4)
    inputs = 0.8 * (io["images"] + 1) / 2 + 0.1
    assert loaded.pixels == LogitLaplaceMap(0.1)
    assert torch.equal(loaded.tokenize(io["images"]), before.tokenize(inputs))
    logits = io["decoder_output"]
    expected = ((logits.sigmoid() - 0.1) / 0.8).clamp(0, 1) * 2 - 1
    torch.testing.assert_close(loaded.detokenize(codes), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("bits, patch", [(12, 4), (36, 2)])
def test_other_sizes(file, tmp_path, bits, patch):
    tokenizer = make(bits, patch=patch)
    path = file(tokenizer)
    loaded = vistok.load(path, config=HEADS | {"logit_laplace": True, "input_range": [0, 1]})
    images = torch.rand(2, 3, 8 * patch, 6 * patch) * 2 - 1
    codes = tokenizer.tokenize(images)
    assert torch.equal(loaded.tokenize(images), codes)
    assert torch.equal(loaded.detokenize(codes), tokenizer.detokenize(codes))
    again = vistok.load(native.save(loaded, tmp_path / "ours"))
    assert again.pixels == LogitLaplaceMap() and torch.equal(again.detokenize(codes), tokenizer.detokenize(codes))


def test_written(tmp_path):
    tokenizer = make()
    to_published.save(tokenizer, tmp_path / "out", family="bsqvit")
    settings = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["model"]["params"]
    assert settings["logit_laplace"] and settings["clamp_range"] == [0, 1]
    loaded = vistok.load(tmp_path / "out" / "model.pt", config=settings)
    assert native.describe(loaded) == native.describe(tokenizer)
    for pixels, outputs in ((PixelMap(), 6), (LogitLaplaceMap(), 3), (LogitLaplaceMap(0.2), 6)):
        tokenizer = make(outputs=outputs)
        tokenizer.pixels = pixels
        with pytest.raises(ValueError, match=r"BSQ-ViT's layout cannot represent \w+\(.*\), only for networks on"):
            to_published.save(tokenizer, tmp_path / "other", family="bsqvit")


@pytest.mark.parametrize("outputs, config, message", [
    (6, {"logit_laplace": False}, "logit_laplace=False cannot be imported, only True"),
    (3, {"logit_laplace": True}, "logit_laplace=True cannot be imported, only False"),
    (6, {"input_range": [-1, 1]}, r"input_range=\[-1, 1\] cannot be imported, only \[0, 1\]"),
    (6, {"post_q_l2_norm": False}, "post_q_l2_norm=False cannot be imported, only True"),
    (9, {}, "as bsqvit its tensors do not fit together"),
])  # fmt: skip
def test_refusals(file, outputs, config, message):
    with pytest.raises(ValueError, match=message):
        vistok.load(file(make(outputs=outputs)), config=HEADS | config)


SMALL = ["trainer=debug", "backbone=vit_clip_b8", "quantizer=bsq", "loss=l1", "data.image_size=16",
         "model.latent_dim=6", "backbone.decoder.out_channels=6", "optimizer.lr=0",
         "model.family_config={vitconfig: {heads: 2}}"]  # fmt: skip
SMALL += [f"backbone.encoder.{own}" for own in ("dim=16", "depth=1", "num_heads=2", "head_dim=8", "image_size=16")]
LAPLACE = ["tokenizer.pixels={_target_: vistok.images.ranges.LogitLaplaceMap}", "loss.loss_weights.logit_laplace=0.1",
           "loss.output_losses.logit_laplace={_target_: vistok.losses.LogitLaplace}"]  # fmt: skip
LAPLACE = [f"++{own}" for own in LAPLACE]


def test_training_goes_on(compose, file, tmp_path):
    tokenizer = configuration.instantiate(compose("train", *SMALL, *LAPLACE).tokenizer).eval()
    overrides = [*SMALL, *LAPLACE, f"model.init={file(tokenizer)}", f"run.dir={tmp_path}/run"]
    run.train(compose("train", *overrides), overrides)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    trained = vistok.load(tmp_path / "run")
    assert trained.pixels == LogitLaplaceMap()
    assert torch.equal(trained.tokenize(images), tokenizer.tokenize(images))
    other = compose("train", *SMALL, f"model.init={tmp_path}/checkpoint.pt")
    with pytest.raises(ValueError, match="takes images of 3 channels and the decoder gives 6"):
        run.build_module(other)  # without the map of the likelihood
    other = compose("train", *(word for word in SMALL if "out_channels" not in word), *overrides[-2:-1])
    with pytest.raises(ValueError, match=r"decoder.conv_out.weight: \(384, 64, 1, 1\) in the file"):
        slim_checkpoint.load_slim(run.build_module(other), Path(other.model.init), None, other.model.family_config)
