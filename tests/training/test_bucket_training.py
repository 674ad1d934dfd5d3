"""Trainings on aspect buckets, from the config to the exported tokenizer."""

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vistok
from vistok.backbones import ViTEncoder
from vistok.processes import locks
from vistok.training import run as training_run

from ..conftest import TINY

ROOT = Path(__file__).parent.parent.parent
BUCKETS = "data.buckets=[[24,48],[32,32],[48,24]]"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Folder of wide, square and tall images, to train on in buckets; seven of them, 3, 2 and 2, for validation."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for part, count in (("train", 11), ("val", 7)):
        (root / part).mkdir()
        for i in range(count):
            size = [(96, 48), (60, 64), (40, 80)][i % 3]
            Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size).save(root / part / f"{i}.png")
    return ["data=folder", f"data.root={root}", BUCKETS, "data.num_workers=0"]


@pytest.mark.parametrize("own", [
    ["quantizer=vq_ema", "loss=l2_gan", "optim.adversarial_start=1", "data.mask=box"],
    ["quantizer=multiscale", "loss=l1", "optim.accumulate=2"],
])  # fmt: skip
def test_trains_and_validates_every_shape(train, words, own, tmp_path):
    run = train(tmp_path / "run", *words, *own, "optim.updates=4")
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert metrics["images"] == 7 and np.isfinite(metrics["psnr"])
    if "quantizer=vq_ema" in own:
        assert metrics["tokens"] == 5 * 3 * 6 + 2 * 4 * 4
    assert Image.open(run / "reconstructions.png").height > 2 * 3 * 48  # of images three times as large
    tokenizer = vistok.load(run)
    images = torch.rand(1, 3, 48, 24) * 2 - 1
    assert tokenizer.detokenize(tokenizer.tokenize(images), (48, 24)).shape == images.shape


def saved(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def free(run):
    """Until the killed process, which is another one than its parent sees, has ended."""
    while True:
        try:
            with locks.held(run / locks.NAME, "the run", False, ""):
                return
        except ValueError:
            time.sleep(0.05)


def test_killed_and_started_again_it_ends_as_one_never_killed(train, words, python, tmp_path):
    """The order, the crops and the weights, to the last bit."""
    words = [*words, "data.flip=true", "schedule=constant", "optim.updates=7", "log.val_every=7", "log.save_every=1"]
    process = subprocess.Popen(
        [python, str(ROOT / "train.py"), *TINY, *words, f"run.dir={tmp_path}/two"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    last = tmp_path / "two" / "checkpoints" / "last.ckpt"
    while process.poll() is None and not (last.exists() and saved(tmp_path / "two")["updates"] >= 1):
        time.sleep(0.01)
    process.kill()
    output, _ = process.communicate()
    assert process.returncode, output
    free(tmp_path / "two")
    assert saved(tmp_path / "two")["updates"] < 7
    one, two = train(tmp_path / "one", *words), train(tmp_path / "two", *words, "run.resume=auto")
    first, second = saved(one), saved(two)
    assert first["updates"] == second["updates"] == 7
    for name, tensor in first["state_dict"].items():
        assert torch.equal(second["state_dict"][name], tensor), name
    assert first["ImageDataModule"] == second["ImageDataModule"]
    for name in ("tokenizer/model.safetensors", "metrics.csv", "reconstructions.png"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize("own, message", [
    (["quantizer=multiscale", "quantizer.schedule=[1,2,4]"],
     r"data.buckets: \[24,48\] gives a latent of 3x6, but this \w+ accepts only 4x4"),
    (["loss=stylegan2", "loss.adversary.discriminator.size=32"],
     "data.buckets: the discriminator StyleGAN accepts only images of 32x32 pixels; discriminator=patchgan and"),
    (["trainer=fsdp"], "data.buckets=.* is not supported with trainer=fsdp"),
])  # fmt: skip
def test_what_accepts_one_size_is_refused(train, words, own, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", *words, *own, "run.debug=true")
    assert not (tmp_path / "run").exists()


def test_a_transformer_of_one_size_is_refused(compose, words, monkeypatch):
    def grid(self, height, width):
        if (height, width) != (32, 32):
            raise ValueError(f"image size {height}x{width} is not 32x32, the only one of this ViT")
        return 4, 4

    own = ["trainer=debug", "backbone=vit_s8", "backbone.encoder.depth=1", "data.image_size=32", *words]
    data, _ = training_run.build(compose("train", *own))
    assert data.buckets.shapes == ((24, 48), (32, 32), (48, 24))  # ours interpolate their positions
    monkeypatch.setattr(ViTEncoder, "grid", grid)
    with pytest.raises(ValueError, match=r"data.buckets: \[24,48\] is not 32x32, the only one of this ViT"):
        training_run.build(compose("train", *own))


def test_estimates_are_of_the_largest_bucket(compose, capsys):
    training_run.estimate(compose("train", "data=folder", "loss=l1", *TINY, "data.buckets=[[32,32],[24,48]]"))
    assert "folder-debug: 24 x 48 pixels, 32-true on the CPU" in capsys.readouterr().out


@pytest.mark.parametrize("data", ["sample", "shards"])
def test_only_listed_images_have_buckets(compose, data):
    own = [f"data={data}", "+data.buckets=auto", *["data.urls=a.tar", "data.val_urls=a.tar"] * (data == "shards")]
    with pytest.raises(ValueError, match=f"data.buckets: vistok.data.{data} has no such argument"):
        training_run.train(compose("train", *TINY, *own), [])
