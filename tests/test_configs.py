"""Every config composes, and builds what it says."""

import itertools
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from vistok import configuration
from vistok.training import run

CONFIGS = Path(__file__).parent.parent / "configs"


def choices(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.mark.parametrize("group, choice", [(g, c) for g in ("backbone", "quantizer", "loss") for c in choices(g)])
def test_every_part_builds(compose, group, choice):
    config = compose("train", "trainer=debug", f"{group}={choice}")
    with torch.device("meta"):
        tokenizer = configuration.instantiate(config.tokenizer)
    assert set(tokenizer.quantizer.loss_names) <= set(configuration.loss_weights(config.quantizer))


HEADS, LOSSES = choices("quantizer"), choices("loss")
PAIRS = sorted({(HEADS[i % len(HEADS)], LOSSES[i % len(LOSSES)]) for i in range(3 * max(len(HEADS), len(LOSSES)))})


@pytest.mark.parametrize("quantizer, loss", PAIRS)  # each with some of the others: all pairs would take minutes
def test_heads_go_with_losses(compose, quantizer, loss):
    """Composing them leaves no term without a weight and no weight without a term."""
    tiny = [
        "backbone=cnn_f8_small",
        "backbone.encoder.channels=8",
        "model.latent_dim=24",
    ]  # channels that two and three sub-codebooks can share
    config = compose("train", "trainer=debug", f"quantizer={quantizer}", f"loss={loss}", *tiny)
    for latent_loss in config.loss.latent_losses.values():
        latent_loss.teacher.model = "test_vit"
    for layer_loss in config.loss.get("layer_losses", {}).values():
        layer_loss.teacher.model, layer_loss.layer = "test_vit", "from_latent"  # every tokenizer has this layer
    config.loss.image_losses = {name: {"_target_": "torch.nn.L1Loss"} for name in config.loss.image_losses}
    _, lit = run.build(config)
    assert set(lit.loss_weights) == {*config.loss.loss_weights, *lit.tokenizer.quantizer.loss_names}


@pytest.mark.parametrize("overrides, expected", [
    ([], {"commitment": 0.25, "codebook": 1.0, "entropy": 0.03}),
    (["quantizer=bsq"], {"commitment": 0.0, "entropy": 0.1}),
    (["quantizer=lfq"], {"commitment": 0.25, "entropy": 0.1}),
    (["quantizer=fq"], {"commitment": 0.25, "codebook": 1.0, "entropy": 0.03, "disentanglement": 0.1}),
    (["quantizer=fq", "quantizer@quantizer.head=bsq"], {"commitment": 0.0, "entropy": 0.1, "disentanglement": 0.1}),
    (["quantizer=dqvae", "quantizer.head.loss_weights.commitment=2"],
     {"commitment": 2, "codebook": 1.0, "entropy": 0.03, "budget": 10.0}),
    (["quantizer=dqvae", "+quantizer.loss_weights.commitment=3", "quantizer.head.loss_weights.commitment=2"],
     {"commitment": 3, "codebook": 1.0, "entropy": 0.03, "budget": 10.0}),
    (["quantizer=simvq", "estimator=diveq"], {"commitment": 0.0, "codebook": 0.0}),
    (["quantizer=fq", "estimator=diveq"],
     {"commitment": 0.0, "codebook": 0.0, "entropy": 0.03, "disentanglement": 0.1}),
])  # fmt: skip
def test_weights_of_a_heads_terms(compose, overrides, expected):
    """They stand in the head's YAML; those of a head in a head are merged by name, and the outer head's count."""
    assert configuration.loss_weights(compose("train", *overrides).quantizer) == expected


def test_heads_that_disagree():
    heads = [{"loss_weights": {"commitment": weight, "entropy": 1}} for weight in (1, 2)]
    with pytest.raises(ValueError, match=r"heads with loss_weights.commitment of 1 and 2.*\+quantizer.loss_weights"):
        configuration.loss_weights({"heads": heads})
    assert configuration.loss_weights({"heads": heads, "loss_weights": {"commitment": 3}}) == {
        "commitment": 3,
        "entropy": 1,
    }


def test_weights_are_no_arguments():
    """They are removed at every depth, also behind an interpolation, and stay in the config."""
    head = {"_target_": "vistok.quantizers.BinaryQuantizer", "dim": 2, "loss_weights": {"entropy": 1}}
    composite = {"_target_": "vistok.quantizers.FactorizedQuantizer", "heads": [head, head], "loss_weights": {}}
    config = OmegaConf.create({"quantizer": composite, "tokenizer": {"quantizer": "${quantizer}"}})
    assert configuration.instantiate(config.tokenizer)["quantizer"].codebook_sizes == (4, 4)
    assert configuration.loss_weights(config.quantizer) == {"entropy": 1}


@pytest.mark.parametrize("trainer, logger", itertools.product(choices("trainer"), choices("logger")))
def test_every_trainer_and_logger_composes(compose, trainer, logger):
    config = compose("train", f"trainer={trainer}", f"logger={logger}", "data=folder", "data.root=x", "run.dir=y")
    run._check_config(config)
    OmegaConf.resolve(config)
    assert config.run.debug == (trainer == "debug")


@pytest.mark.parametrize("network, data", itertools.product(choices("feature_network"), choices("data")))
def test_every_evaluation_composes(compose, network, data):
    config = compose(
        "eval", f"feature_network={network}", f"data={data}", "tokenizer=x", *["data.root=y"][: data == "folder"]
    )
    OmegaConf.resolve(config)
    assert bool(config.feature_network) == (network != "none")


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes(compose, experiment):
    config = compose("train", f"experiment={experiment}", "data=folder", "data.root=x", "model.init=x", "trainer=gpu")
    OmegaConf.resolve(config)
    assert config.run.name == experiment and "=" not in config.run.name
    assert config.trainer.precision == "bf16-mixed"
    run._check_config(config)


@pytest.mark.parametrize("experiment, head", [
    ("vqgan_f16_16k_imagenet256", {"codebook_size": 16384, "dim": 256, "cosine": False}),
    ("llamagen_vq16_imagenet256", {"codebook_size": 16384, "dim": 8, "cosine": True}),
])  # fmt: skip
def test_published_sizes(compose, experiment, head):
    config = compose("train", f"experiment={experiment}", "data=folder", "data.root=x")
    with torch.device("meta"):
        tokenizer = configuration.instantiate(config.tokenizer)
        latent = tokenizer.encode(torch.empty(1, 3, 256, 256))
    sizes = {name: sum(p.numel() for p in getattr(tokenizer, name).parameters()) for name in ("encoder", "decoder")}
    assert sizes == {"encoder": 29_298_176, "decoder": 42_449_795}
    assert latent.shape == (1, head["dim"], 16, 16) and tokenizer.factor == 16
    assert {name: getattr(tokenizer.quantizer, name) for name in head} == head


def test_no_file_name_upsets_hydra():
    assert not [path for path in CONFIGS.rglob("*") if "=" in path.name]


def test_the_default_run_is_what_the_docs_say(compose):
    """A small f4 tokenizer of 1,024 codewords for crops of 64 pixels, whose adversary has the last fifth."""
    config = compose("train")
    assert (config.optim.updates, config.optim.adversarial_start, config.speed.precision) == (2500, 2000, "32-true")
    assert (config.data.image_size, config.data.batch_size, config.trainer.accelerator) == (64, 8, "cpu")
    with torch.device("meta"):
        tokenizer = configuration.instantiate(config.tokenizer)
    assert tokenizer.grid(64, 64) == (16, 16) and tokenizer.quantizer.codebook_sizes == (1024,)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (tokenizer.encoder, tokenizer.decoder)]
    assert sizes == [377_984, 452_080]
    quickstart = (CONFIGS.parent / "docs" / "quickstart.md").read_text()
    assert "after 2,500 updates" in quickstart and "256 codes each" in quickstart
