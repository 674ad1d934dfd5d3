"""Every recipe in ``configs/experiment`` has its published sizes, and trains."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import vistok
from vistok import configuration
from vistok.training import run

from .conftest import own_images

pytestmark = pytest.mark.usefixtures("networks_made_once")


class Recipe(NamedTuple):
    encoder: int  # parameters
    decoder: int
    latent: tuple[int, ...]  # d, h, w of the finest latent
    codebook: int = 16384
    total: int | None = None  # parameters of the whole tokenizer, where published
    images: str | None = None  # the kind of files that it is for, if not photos


F16 = 29_298_176, 42_449_795
F8 = 28_559_232, 41_415_171
SIMVQ = 24_282_496, 39_851_907, (128, 16, 16)
DQVAE_DUAL = 33_042_176, 14_397_571, (256, 32, 32), 1024
IBQ = 46_752_256, 59_903_875, (256, 16, 16)
VAR = 44_107_872, 64_653_923

RECIPES = {
    "vqgan_f16_1k_imagenet256": Recipe(*F16, (256, 16, 16), 1024),
    "vqgan_f16_16k_imagenet256": Recipe(*F16, (256, 16, 16)),
    # Latent diffusion: of f8 and f16 by hand (tests/backbones/test_cnn.py), of f4 only measured.
    "ldm_vq_f4_openimages256": Recipe(22_337_411, 32_960_771, (3, 64, 64), 8192),
    "ldm_vq_f8_openimages256": Recipe(27_397_764, 40_253_955, (4, 32, 32)),
    "ldm_vq_f16_openimages256": Recipe(28_155_144, 41_307_011, (8, 16, 16)),
    "vitvqgan_ss_imagenet256": Recipe(27_942_912, 27_581_824, (32, 32, 32), 8192),
    "vitvqgan_bb_imagenet256": Recipe(90_713_088, 89_384_832, (32, 32, 32), 8192),
    "vitvqgan_sl_imagenet256": Recipe(27_942_912, 597_548_928, (32, 32, 32), 8192),
    "simvq_1k_imagenet128": Recipe(*SIMVQ, 1024),
    "simvq_8k_imagenet128": Recipe(*SIMVQ, 8192),
    "simvq_65k_imagenet128": Recipe(*SIMVQ, 65536),
    "simvq_262k_imagenet128": Recipe(*SIMVQ, 262_144),
    # FQGAN's triple encoder is published as 88.8 M for f16.
    "fqgan_dual_f16_imagenet256": Recipe(68_573_952, F16[1], (16, 16, 16)),
    "fqgan_dual_f8_imagenet256": Recipe(68_621_440, F8[1], (16, 32, 32)),
    "fqgan_triple_f16_imagenet256": Recipe(88_802_304, F16[1], (24, 16, 16)),
    "fqgan_triple_f8_imagenet256": Recipe(89_243_008, F8[1], (24, 32, 32)),
    "fvq_16k_imagenet256": Recipe(*F16, (256, 16, 16), total=80_411_011),
    "fvq_65k_imagenet256": Recipe(*F16, (256, 16, 16), 65536),
    "fvq_262k_imagenet256": Recipe(*F16, (256, 16, 16), 262_144),
    "dqvae_dual_imagenet256": Recipe(*DQVAE_DUAL),
    "dqvae_dual_entropy_imagenet256": Recipe(*DQVAE_DUAL),
    "dqvae_triple_imagenet256": Recipe(58_624_512, *DQVAE_DUAL[1:]),
    "bsqvit_18bit_imagenet256": Recipe(85_991_424, 88_796_352, (18, 32, 32), 2**18, total=174_816_210),
    "bsqvit_36bit_imagenet256": Recipe(85_991_424, 88_796_352, (36, 32, 32), 2**36),
    "llamagen_vq16_imagenet256": Recipe(*F16, (8, 16, 16), total=71_883_403),
    "llamagen_vq8_imagenet256": Recipe(*F8, (8, 32, 32), total=70_109_835),
    "ibq_1k_imagenet256": Recipe(*IBQ, 1024),
    "ibq_16k_imagenet256": Recipe(*IBQ),
    "ibq_262k_imagenet256": Recipe(*IBQ, 262_144),
    "rqvae_8x8x4_imagenet256": Recipe(41_101_312, 58_974_595, (256, 8, 8)),
    "var_openimages256": Recipe(*VAR, (32, 16, 16), 4096, total=108_948_355),
    "var_openimages512": Recipe(*VAR, (32, 32, 32), 4096, total=108_948_355),
    "vqgan_gumbel_f8_openimages256": Recipe(26_345_728, 38_316_163, (256, 32, 32), 8192),
    "openmagvit2_imagenet256": Recipe(49_751_442, 65_376_387, (18, 16, 16), 2**18),
    "openmagvit2_imagenet128": Recipe(48_422_162, 63_599_491, (18, 16, 16), 2**18),
    "wetok_f16_imagenet256": Recipe(198_935_328, 261_358_851, (32, 16, 16), 2**8),
    "cosmos_di8_imagenet256": Recipe(32_259_712, 46_741_296, (6, 32, 32), 64_000),
    "cosmos_di16_imagenet256": Recipe(34_619_520, 49_101_104, (6, 16, 16), 64_000),
    "infinity_16bit_imagenet256": Recipe(44_951_952, 65_018_627, (16, 16, 16), 2**16),  # measured: none published
    "infinity_32bit_imagenet256": Recipe(45_025_696, 65_092_355, (32, 16, 16), 2**32),
    "fsq_1k_imagenet256": Recipe(
        23_645_828, 29_317_123, (4, 16, 16), 1000
    ),  # MaskGIT's, but for a latent of 4 channels
    "cxr_finetune": Recipe(*F16, (256, 16, 16), 1024, images="grey"),
    # The first and the last convolution, of 3 x 3 and 128 channels, by the number of bands; the sprites' measured.
    "xray_16bit": Recipe(F8[0] - 2 * 9 * 128, F8[1] - 2 * (9 * 128 + 1), (8, 32, 32), images="grey 12-bit"),
    "satellite_8band": Recipe(F8[0] + 5 * 9 * 128, F8[1] + 5 * (9 * 128 + 1), (8, 32, 32), images="8 bands"),
    "sprites_rgba32": Recipe(396_480, 544_656, (8, 8, 8), 1024, images="rgba"),
}
SMALL = {"channels": 8, "num_blocks": 1, "dim": 96, "depth": 1, "num_heads": 2, "heads": 2, "head_dim": 8}
CODEBOOK = 64
FOLDER = ("data=folder", "data.num_workers=0", "model.init=null")  # a fine-tuning one asks for weights to start from


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_every_recipe_is_in_the_table():
    files = (Path(__file__).parent.parent / "configs" / "experiment").glob("*.yaml")
    assert sorted(path.stem for path in files) == sorted(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_published_sizes(compose, name):
    config, recipe = compose("train", f"experiment={name}", *FOLDER, "data.root=x"), RECIPES[name]
    run._check_config(config)
    with torch.device("meta"):
        tokenizer = configuration.instantiate(config.tokenizer)
        latent = tokenizer.encode(torch.empty(1, config.data.channels, config.data.image_size, config.data.image_size))
        run.build_module(OmegaConf.merge(config, {"run": {"frozen_weights": "random"}}))  # every term has a weight
    assert (parameters(tokenizer.encoder), parameters(tokenizer.decoder)) == (recipe.encoder, recipe.decoder)
    assert latent.shape[1:] == recipe.latent and tokenizer.factor * recipe.latent[-1] == config.data.image_size
    assert set(tokenizer.quantizer.codebook_sizes) == {recipe.codebook}
    assert recipe.total in (None, parameters(tokenizer))


def shrink(backbone: DictConfig) -> None:
    """Make every network small, in place; what is interpolated follows."""
    for key in backbone:
        if OmegaConf.is_interpolation(backbone, key):
            continue
        if isinstance(backbone[key], DictConfig):
            shrink(backbone[key])
        elif key in SMALL and isinstance(backbone[key], int):
            backbone[key] = min(SMALL[key], backbone[key])


@pytest.fixture
def small(compose, shrink_losses, tmp_path) -> Callable[[str], DictConfig]:
    """``small(name)``: the config of a recipe for two updates with small networks, on small images of its kind."""

    def make(name: str) -> DictConfig:
        words = []
        if RECIPES[name].images:
            words = [*FOLDER, f"data.root={own_images(tmp_path / 'images', RECIPES[name].images)}", "data.val_count=2"]
        words += ["trainer=debug", "data.image_size=32", "optim.accumulate=1"]
        config = compose("train", f"experiment={name}", *words)
        shrink(config.backbone)
        shrink_losses(config.loss, config.data.image_size)
        config.model.latent_dim = min(config.model.latent_dim, 32)
        config.model.codebook_size, config.run.name = CODEBOOK, "recipe"
        return config

    return make


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    """Folders of finished runs by their configs: recipes that differ in the codebook alone are one run here."""
    return {}


@pytest.mark.parametrize("name", RECIPES)
def test_two_updates(small, tmp_path, folders, name):
    config = small(name)
    same = OmegaConf.to_yaml(config, resolve=True)
    if same not in folders:
        folders[same] = config.run.dir = str(tmp_path / "run")
        assert run.train(config, [])["images"] > 0
    folder = Path(folders[same])
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    losses = [{key: float(value) for key, value in row.items() if key.startswith("train/") and value} for row in rows]
    first, second = [terms for terms in losses if terms]
    assert all(map(math.isfinite, [*first.values(), *second.values()]))
    with torch.device("meta"):
        of_head = configuration.instantiate(config.tokenizer).quantizer.loss_names
    names = {f"train/{name}" for name in (*config.loss.loss_weights, *of_head) if name != "r1"}  # in every 16th update
    adversarial = {"train/adversarial", "train/discriminator", "train/lecam"}  # from the second on, by trainer=debug
    assert names - adversarial <= set(first) and names <= set(second)
    tokenizer = vistok.load(folder)
    codes = tokenizer.tokenize(torch.rand(2, config.data.channels, 32, 32) * 2 - 1)
    *_, finest = tokenizer.quantizer.layout(*tokenizer.grid(32, 32)).split(codes)
    assert finest.shape[-1] == 32 // tokenizer.factor
    sizes = set(tokenizer.quantizer.codebook_sizes)
    assert codes.max() < max(sizes) and (sizes == {CODEBOOK} or tokenizer.quantizer.table(0) is None)


@pytest.mark.parametrize("name", ["cosmos_di8_imagenet256", "infinity_16bit_imagenet256"])
def test_estimates(small, capsys, name):
    """Of a head without a table, and of one of several scales."""
    run.estimate(small(name))
    printed = capsys.readouterr().out
    assert "a training update" in printed and "peak" in printed
