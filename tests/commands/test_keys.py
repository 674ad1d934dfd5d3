"""Keys that a config does not have: each gets one line that names the key that is meant."""

from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from vistok import configuration
from vistok.commands import keys
from vistok.training import run

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def message(command, *words):
    """The message for a command line that Hydra refuses, from Hydra's own."""
    with pytest.raises(Exception) as refused, hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        hydra.compose(command, list(words))
    return keys.explained(" ".join(str(refused.value).split()), command, words, CONFIGS)


@pytest.mark.parametrize("command, words, expected", [
    ("train", ["optim.updats=50"], "there is no key optim.updats: did you mean optim.updates?"),
    ("train", ["run.dri=x", "quantizer=vq"], "there is no key run.dri: did you mean run.dir?"),
    ("train", ["quantizer.codebok_size=4"],
     "there is no key quantizer.codebok_size: did you mean quantizer.codebook_size?"),
    ("train", ["loss=vqgan", "loss.image_losses.lpips.wights=x"],
     "there is no key loss.image_losses.lpips.wights: did you mean loss.image_losses.lpips.weights?"),
    ("train", ["optim.lr=1"], "there is no key optim.lr: did you mean optimizer.lr?"),
    ("train", ["lr=1"], "there is no key lr: did you mean optimizer.lr?"),
    ("train", ["datta=folder"], "there is no key datta: did you mean data?"),
    ("train", ["~optim.clipp"], "there is no key optim.clipp: did you mean optim.clip?"),
    ("train", ["nonsense=1"], "there is no key nonsense; --help lists all keys"),
    ("train", ["log.xyzzy=1"], "there is no key log.xyzzy; log has every, val_every, save_every, keep_checkpoints, "
     "loss_band"),
    ("train", ["data.root=DIR"], "data.root needs data=folder"),
    ("train", ["data=shards", "data.root=DIR"], "data.root needs data=folder"),
    ("train", ["data.urls=X"], "data.urls needs data=shards"),
    ("train", ["quantizer.xyzzy=1"], "there is no key quantizer.xyzzy; quantizer has _target_, codebook_size, dim, "),
    ("train", ["data.flip=true"], "data.flip needs data=folder or data=shards"),
    ("train", ["quantizer.router.patch=8"], "quantizer.router.patch needs quantizer=dqvae_entropy"),
    ("train", ["optim.updats=1", "run.dri=x"], "there is no key optim.updats: did you mean optim.updates?"),
    ("train", ["quantizer=simvk"], "there is no quantizer=simvk: did you mean quantizer=simvq? quantizer may be bsq, "),
    ("train", ["data=zzz"], "there is no data=zzz; data may be folder, sample, shards"),
    ("eval", ["data.urls=X"], "data.urls needs data=shards"),
    ("eval", ["metrics.lipps=null"], "there is no key metrics.lipps: did you mean metrics.lpips?"),
    ("eval", ["protocol=[canonical,seed]"], "protocol=seed is now protocol=openmagvit2 (SEED-Voken's evaluator with "),
    ("eval", ["protocol=seed"], "protocol=seed is now protocol=openmagvit2 (SEED-Voken's evaluator with the configs of "
     "Open-MAGVIT2 and of pretrained IBQ) or protocol=ibq (the same with IBQ's ImageNet configs)"),
    ("eval", ["protocol=[ibk]"], "there is no protocol=ibk; protocol may be canonical, fvq, ibq, llamagen, "),
    ("eval", ["feature_network=tim"], "there is no feature_network=tim: did you mean feature_network=timm?"),
])  # fmt: skip
def test_what_is_meant(command, words, expected):
    assert message(command, *words).startswith(expected)


def test_other_messages_are_hydras():
    assert keys.explained("Ambiguous value for argument 'a=1,2'", "train", ["a=1,2"], CONFIGS) is None


@pytest.mark.parametrize("command, words, expected", [
    ("train", ["updates=50", "quantizer=vq", "+augmentation.flip=true"],
     "updates is now optim.updates; augmentation.flip is now data.flip"),
    ("train", ["-m", "~loss.weights.l2", "seed=0,1"],
     "loss.weights.l2 is now loss.loss_weights.l2; seed is now run.seed"),
    ("train", ["ckpt=auto", "weights=random"], "ckpt is now run.resume; weights is now run.frozen_weights"),
    ("train", ["reference=X"], "reference is now log.loss_band"),
    ("eval", ["reference=X"], "reference is now metrics.reference"),
    ("eval", ["network=timm", "network.model=resnet50"],
     "network is now feature_network; network.model is now feature_network.model"),
])  # fmt: skip
def test_a_former_key_names_the_present_one(command, words, expected):
    with pytest.raises(ValueError) as refused:
        keys.refuse_renamed(command, words)
    assert str(refused.value) == expected


@pytest.mark.parametrize("command", ["train", "eval"])
def test_every_present_name_is_a_key(compose, command):
    config = compose(command, "data=folder")
    for present in configuration.RENAMED[command].values():
        node, _, name = present.rpartition(".")
        assert name in list(OmegaConf.select(config, node) if node else config), present
    keys.refuse_renamed(command, [f"{present}=1" for present in configuration.RENAMED[command].values()])


@pytest.mark.parametrize("own, expected", [
    ({"updates": 5}, "updates is now optim.updates"),
    ({"augmentation": {"flip": True}}, "augmentation is now data"),
    ({"loss": {"weights": {"l2": 1}}}, "loss.weights is now loss.loss_weights"),
    ({"optim": {"update": 5}}, "there is no key optim.update: did you mean optim.updates?"),
    ({"run": {"xyzzy": 5}}, "there is no key run.xyzzy; run has name, "),
])  # fmt: skip
def test_keys_of_a_yaml_of_ones_own(compose, own, expected):
    """Hydra merges any key from a file: what nothing reads is refused."""
    config = compose("train")
    OmegaConf.set_struct(config, False)
    with pytest.raises(ValueError) as refused:
        run._check_config(OmegaConf.merge(config, own))
    assert str(refused.value).startswith(expected)


def test_keys_of_a_config_of_ones_own_that_others_refer_to(compose):
    config = compose("train", "+my_size=32", "data.image_size=${my_size}")
    configuration.check_keys(config, run.KEYS, "train")
