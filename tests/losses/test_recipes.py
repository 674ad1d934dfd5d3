"""Every loss and every discriminator that configs/ has trains; what they need survives a resume."""

import csv
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from vistok import configuration
from vistok.training.run import train as train_of

from ..conftest import TINY

CONFIGS = Path(__file__).parents[2] / "configs"


def choices(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def logged(run):
    """The names of all numbers in a run's ``metrics.csv``."""
    with (run / "metrics.csv").open() as file:
        return {name for row in csv.DictReader(file) for name, value in row.items() if value}


@pytest.fixture
def assert_fits(monkeypatch):
    """``assert_fits(loss, latent_dim, image_size, grid)``: a config's terms in their published sizes are scalars
    that reach the reconstruction, the latent and everything that learns.

    On the meta device, where only shapes are computed.
    """
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know that device

    def check(loss, latent_dim, image_size, grid):
        with torch.device("meta"):
            parts = configuration.instantiate(loss)
            images = torch.empty(4, 3, image_size, image_size)
            reconstruction = torch.empty_like(images, requires_grad=True)
            latent = torch.empty(4, latent_dim, grid, grid, requires_grad=True)
        losses = {"images": parts["image_losses"], "latent": parts["latent_losses"]}
        losses["layers"] = parts.get("layer_losses", {})
        networks = [loss.to("meta") for own in losses.values() for loss in own.values()]
        terms = [loss(reconstruction, images) for loss in losses["images"].values()]
        terms += [loss(latent, images) for loss in losses["latent"].values()]
        terms += [loss(torch.empty(4, grid**2, loss.dim, device="meta"), images) for loss in losses["layers"].values()]
        if parts["adversary"]:
            networks.append(parts["adversary"].discriminator.to("meta"))
            logits = networks[-1](reconstruction)
            assert len(logits) == 4 and logits.numel() >= 4
            terms.append(logits.mean())
        assert all(term.shape == () for term in terms)
        sum(terms).backward()
        assert reconstruction.grad.shape == images.shape
        assert not losses["latent"] or latent.grad.shape == latent.shape
        learned = [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]
        assert all(parameter.grad is not None for parameter in learned)

    return check


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter.*:UserWarning")  # the weights of LPIPS' heads
@pytest.mark.parametrize("loss", choices("loss"))
def test_every_loss_fits_its_images(compose, assert_fits, loss):
    config = compose("train", f"loss={loss}", "trainer=debug", "data.image_size=256", "model.latent_dim=12")
    assert_fits(config.loss, config.model.latent_dim, config.data.image_size, grid=16)


@pytest.mark.parametrize("discriminator", choices("discriminator"))
def test_every_discriminator_fits_its_images(compose, assert_fits, discriminator):
    words = [f"discriminator@loss.adversary.discriminator={discriminator}", "trainer=debug", "data.image_size=256"]
    assert_fits(compose("train", *words).loss, latent_dim=16, image_size=256, grid=32)


@pytest.fixture
def train_small(compose, shrink_losses, tmp_path):
    """``train_small(*overrides)``: the folder of a run with small networks beside the tokenizer."""

    def train(*overrides):
        config = compose("train", *TINY, *overrides, f"run.dir={tmp_path / 'run'}")
        shrink_losses(config.loss, config.data.image_size)
        train_of(config, list(overrides))
        return tmp_path / "run"

    return train


@pytest.mark.slow
@pytest.mark.parametrize("loss", choices("loss"))
def test_every_loss_trains(train_small, compose, loss):
    run = train_small(f"loss={loss}", "optim.adversarial_start=0", "model.latent_dim=12")  # for two or three parts
    names = set(compose("train", f"loss={loss}").loss.loss_weights)
    assert {f"train/{name}" for name in names} <= logged(run)
    assert not (run / "not_finite.jsonl").exists()
    if "adversarial" in names:
        assert {"train/accuracy_real", "train/accuracy_fake"} <= logged(run)


@pytest.mark.slow
@pytest.mark.parametrize("discriminator", choices("discriminator"))
def test_every_discriminator_trains(train_small, discriminator):
    """With every regularizer: R1 of update 0 and 2."""
    words = [f"discriminator@loss.adversary.discriminator={discriminator}", "loss.adversary.regularizers.r1.every=2"]
    run = train_small("loss=small_data", "optim.adversarial_start=0", "optim.updates=3", *words)
    assert {"train/adversarial", "train/discriminator", "train/r1", "train/lecam"} <= logged(run)
    assert not (run / "not_finite.jsonl").exists()


def test_resumed_it_ends_as_one_never_interrupted(train, tmp_path):
    """LeCam's averages, the draws of DiffAug, and when R1 is taken: equal to the last bit."""
    words = [
        "loss=small_data",
        "loss.adversary.regularizers.r1.every=3",
        "schedule=constant",
        "optim.adversarial_start=1",
    ]
    whole = train(tmp_path / "whole", *words, "optim.updates=8", "log.save_every=4")
    train(tmp_path / "parts", *words, "optim.updates=4", "run.resume=auto")
    parts = train(tmp_path / "parts", *words, "optim.updates=8", "run.resume=auto")
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (parts, whole))
    assert ours["updates"] == theirs["updates"] == 8
    assert theirs["state_dict"]["adversary.regularizers.lecam.real"] != 0
    assert set(ours["state_dict"]) == set(theirs["state_dict"])
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name


def test_frozen_features_are_not_in_checkpoints(train, tmp_path):
    words = ["loss=dino_gan", "+loss.adversary.discriminator.size=32", "loss.image_losses.lpips.net=squeeze"]
    words += ["loss.adversary.discriminator.model=vit_tiny_patch16_224", "+loss.adversary.discriminator.blocks=[1]"]
    run = train(tmp_path / "run", *words, "optim.adversarial_start=0", "schedule=constant")
    names = set(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert any(name.startswith("adversary.discriminator.heads.") for name in names)
    assert not any(name.startswith("adversary.discriminator.features.") for name in names)
    train(run, *words, "optim.adversarial_start=0", "schedule=constant", "optim.updates=3", "run.resume=auto")


def test_accumulated_batches_are_one_update_of_the_averages(train, tmp_path):
    words = [
        "loss=openmagvit2",
        "loss.image_losses.lpips.net=squeeze",
        "optim.adversarial_start=0",
        "optim.accumulate=2",
    ]
    run = train(tmp_path / "run", *words, "optim.updates=1", "+loss.adversary.regularizers.lecam.decay=0")
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    batches = state["adversary.discriminator.layers.3.num_batches_tracked"]
    assert batches == 4  # two batches: reconstructions, whose logits serve both losses, and images
    assert state["adversary.regularizers.lecam.real"].isfinite() and state["adversary.regularizers.lecam.real"] != 0
