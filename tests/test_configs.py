"""Every config composes, and builds what it says."""

import itertools
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vistok import cli

CONFIGS = Path(__file__).parent.parent / "configs"


def choices(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.mark.parametrize("group, choice", [(g, c) for g in ("backbone", "quantizer", "loss") for c in choices(g)])
def test_every_part_builds(compose, group, choice):
    config = compose("train", "trainer=debug", f"{group}={choice}")
    with torch.device("meta"):
        tokenizer = cli.instantiate(config.tokenizer)
    assert set(tokenizer.quantizer.loss_names) <= set(config.quantizer_weights)


HEADS, LOSSES = choices("quantizer"), choices("loss")
PAIRS = sorted({(HEADS[i % len(HEADS)], LOSSES[i % len(LOSSES)]) for i in range(3 * max(len(HEADS), len(LOSSES)))})


@pytest.mark.parametrize("quantizer, loss", PAIRS)  # each with some of the others: all pairs would take minutes
def test_heads_go_with_losses(compose, quantizer, loss):
    """Composing them leaves no term without a weight and no weight without a term."""
    tiny = ["backbone.encoder.channels=8", "latent_dim=24"]  # channels that two and three sub-codebooks can share
    config = compose("train", "trainer=debug", f"quantizer={quantizer}", f"loss={loss}", *tiny)
    for latent_loss in config.loss.latent_losses.values():
        latent_loss.teacher.model = "test_vit"
    config.loss.image_losses = {name: {"_target_": "torch.nn.L1Loss"} for name in config.loss.image_losses}
    _, lit = cli.build(config)
    assert set(lit.weights) == {*config.loss.weights, *lit.tokenizer.quantizer.loss_names}


@pytest.mark.parametrize("trainer, logger", itertools.product(choices("trainer"), choices("logger")))
def test_every_trainer_and_logger_composes(compose, trainer, logger):
    config = compose("train", f"trainer={trainer}", f"logger={logger}", "data=folder", "data.root=x", "run_dir=y")
    cli._check_config(config)
    OmegaConf.resolve(config)
    assert config.debug == (trainer == "debug")


@pytest.mark.parametrize("network, data", itertools.product(choices("network"), choices("data")))
def test_every_evaluation_composes(compose, network, data):
    config = compose("eval", f"network={network}", f"data={data}", "tokenizer=x", *["data.root=y"][: data == "folder"])
    OmegaConf.resolve(config)
    assert bool(config.network) == (network != "none")


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes(compose, experiment):
    config = compose("train", f"experiment={experiment}", "data=folder", "data.root=x", "trainer=gpu")
    OmegaConf.resolve(config)
    assert config.name == experiment and "=" not in config.name
    assert config.trainer.precision == "bf16-mixed"
    cli._check_config(config)


@pytest.mark.parametrize("experiment, head", [
    ("vqgan_f16_16k_imagenet256", {"codebook_size": 16384, "dim": 256, "cosine": False}),
    ("llamagen_vq16_imagenet256", {"codebook_size": 16384, "dim": 8, "cosine": True}),
])  # fmt: skip
def test_published_sizes(compose, experiment, head):
    config = compose("train", f"experiment={experiment}", "data=folder", "data.root=x")
    with torch.device("meta"):
        tokenizer = instantiate(config.tokenizer)
        latent = tokenizer.encode(torch.empty(1, 3, 256, 256))
    sizes = {name: sum(p.numel() for p in getattr(tokenizer, name).parameters()) for name in ("encoder", "decoder")}
    assert sizes == {"encoder": 29_298_176, "decoder": 42_449_795}
    assert latent.shape == (1, head["dim"], 16, 16) and tokenizer.factor == 16
    assert {name: getattr(tokenizer.quantizer, name) for name in head} == head


def test_no_file_name_upsets_hydra():
    assert not [path for path in CONFIGS.rglob("*") if "=" in path.name]
