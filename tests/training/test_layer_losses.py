"""Losses on named layers: through train.py, their gradients, and wrong names."""

import copy
import csv

import pytest
import torch
from torch import nn

from vistok import Tokenizer
from vistok.backbones import ViTDecoder, ViTEncoder
from vistok.quantizers import VectorQuantizer
from vistok.training.data_parallel import is_steady
from vistok.training.layer_features import LayerFeatures
from vistok.training.module import LitTokenizer
from vistok.training.run import train as train_of
from vistok.training.schedules import Schedule

WORDS = [
    "trainer=debug", "backbone=vit_s8", "loss=gigatok", "data.image_size=32", "model.codebook_size=16",
    "model.latent_dim=4", "backbone.encoder.dim=16", "backbone.encoder.depth=3", "backbone.encoder.num_heads=2",
    "backbone.encoder.head_dim=8", "~loss.image_losses.lpips", "~loss.loss_weights.lpips", "loss.adversary=null",
    "~loss.loss_weights.adversarial", "~loss.loss_weights.discriminator", "schedule=constant",
    "loss.layer_losses.semantic.teacher.model=test_vit", "+loss.layer_losses.semantic.teacher.size=32",
    "loss.layer_losses.semantic.layer=decoder.transformer.blocks.1",
]  # fmt: skip


@pytest.fixture
def train_vit(compose):
    def train(folder, *words):
        words = [*WORDS, *words, f"run.dir={folder}"]
        train_of(compose("train", *words), words)
        return folder

    return train


def test_gigatoks_loss_trains_and_resumes(train_vit, tmp_path):
    """A resumed run is equal to the last bit; the predictor is trained and saved, the teacher is not saved."""
    whole = train_vit(tmp_path / "whole", "optim.updates=2", "log.save_every=1", "log.every=1", "optim.ema_decay=0.5")
    resume = ["run.resume=auto", "log.every=1", "optim.ema_decay=0.5"]
    train_vit(tmp_path / "parts", *resume, "optim.updates=1")
    parts = train_vit(tmp_path / "parts", *resume, "optim.updates=2")
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (parts, whole))
    assert ours["updates"] == theirs["updates"] == 2 and set(ours["state_dict"]) == set(theirs["state_dict"])
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name
    own = {name for name in theirs["state_dict"] if name.startswith("layer_losses.")}
    layers = {f"layer_losses.semantic.predictor.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")}
    assert own == layers
    optimizer = theirs["optimizer_states"][0]["state"]
    trained = {tuple(state["exp_avg"].shape) for state in optimizer.values() if state["exp_avg"].any()}
    assert {(64, 16), (64, 64)} <= trained  # the predictor's, in the generator's optimizer
    with (whole / "metrics.csv").open() as file:
        values = [float(row["train/semantic"]) for row in csv.DictReader(file) if row["train/semantic"]]
    assert len(values) == 2 and all(0 < value < 2 for value in values)


@pytest.mark.parametrize("layer, near", [
    ("decoder.blocks.1", "decoder.transformer.blocks.1"),
    ("decoder.transformer.blocks", "decoder.transformer.blocks."),  # a list, which computes nothing
    ("nothing", "encoder, to_latent, quantizer, from_latent, decoder"),
])  # fmt: skip
def test_an_unknown_layer_is_refused_before_the_run(train_vit, tmp_path, layer, near):
    message = f"loss.layer_losses.semantic.layer={layer}: the tokenizer has no such layer; it has .*{near}"
    with pytest.raises(ValueError, match=message):
        train_vit(tmp_path / "run", f"loss.layer_losses.semantic.layer={layer}")
    assert not (tmp_path / "run").exists()


class MeanSquare(nn.Module):
    """A stranger's loss on a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, feature, images):
        return feature.square().mean()


def tokenizer_of():
    torch.manual_seed(0)
    sizes = {"dim": 8, "depth": 3, "num_heads": 1, "head_dim": 8, "image_size": 32}
    maps = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
    return Tokenizer(ViTEncoder(**sizes), VectorQuantizer(16, 4), ViTDecoder(**sizes), *maps)


def recorded(features, tokenizer, images):
    with features.recorded():
        tokenizer(images)
    return features.terms(images)


def test_layers_behind_get_no_gradient():
    tokenizer, images = tokenizer_of(), torch.rand(2, 3, 32, 32)
    features = LayerFeatures(tokenizer, {"size": MeanSquare("decoder.transformer.blocks.1")})
    recorded(features, tokenizer, images)["size"].backward()
    reached = {name for name, weight in tokenizer.decoder.named_parameters() if weight.grad is not None}
    before = ("transformer.positions", "transformer.blocks.0.", "transformer.blocks.1.")
    assert reached == {name for name, _ in tokenizer.decoder.named_parameters() if name.startswith(before)}
    assert all(weight.grad is not None for weight in tokenizer.from_latent.parameters())
    assert all(weight.grad is not None for weight in tokenizer.encoder.parameters())


def test_the_feature_is_that_of_the_training_step_and_is_not_kept():
    tokenizer, images = tokenizer_of(), torch.rand(2, 3, 32, 32)
    plain = copy.deepcopy(tokenizer)
    features = LayerFeatures(tokenizer, {"size": MeanSquare("from_latent")})
    expected = plain.from_latent(plain.quantize(images).latent).square().mean()
    torch.testing.assert_close(recorded(features, tokenizer, images)["size"], expected, rtol=0, atol=0)
    with torch.no_grad():
        tokenizer(images)  # as validation does
    assert not features.features


def test_a_compiled_block_gives_its_feature():
    tokenizer, images = tokenizer_of(), torch.rand(2, 3, 32, 32)
    features = LayerFeatures(tokenizer, {"size": MeanSquare("decoder.transformer.blocks.1")})
    expected = recorded(features, tokenizer, images)["size"]
    for block in tokenizer.decoder.transformer.blocks:
        block.compile(backend="eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        tokenizer(images)  # a graph without recording comes first
    term = recorded(features, tokenizer, images)["size"]
    torch.testing.assert_close(term, expected)
    assert term.requires_grad


def test_without_layer_losses_there_are_no_hooks():
    weights = {"l1": 1.0, "commitment": 1.0, "codebook": 1.0}
    lit = LitTokenizer(tokenizer_of(), {"l1": nn.L1Loss()}, weights, torch.optim.Adam, Schedule(1))
    assert not any(module._forward_hooks for module in lit.modules())


def test_a_strangers_parameters_may_change_from_step_to_step():
    """So DDP looks for those without a gradient in each step."""
    weights = {"l1": 1.0, "size": 1.0, "commitment": 1.0, "codebook": 1.0}
    loss = MeanSquare("from_latent")
    losses = {"size": loss}
    lit = LitTokenizer(tokenizer_of(), {"l1": nn.L1Loss()}, weights, torch.optim.Adam, Schedule(1), layer_losses=losses)
    assert is_steady(lit)
    loss.scale = nn.Parameter(torch.ones(()))
    assert not is_steady(lit)


@pytest.mark.parametrize("loss, message", [
    (MeanSquare("quantizer"), "layer=quantizer: this layer gives a Quantized; name one that gives a tensor"),
    (MeanSquare("spare"), "layer=spare: this layer does not compute in training; name one that gives a tensor"),
    (nn.L1Loss(), "loss.layer_losses.size: L1Loss has no attribute layer"),
])  # fmt: skip
def test_layers_that_give_no_tensor(loss, message):
    tokenizer, images = tokenizer_of(), torch.rand(2, 3, 32, 32)
    tokenizer.spare = nn.Identity()
    with pytest.raises(ValueError, match=message):
        recorded(LayerFeatures(tokenizer, {"size": loss}), tokenizer, images)
