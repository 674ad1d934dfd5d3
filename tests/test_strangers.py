"""A head, an encoder and a decoder from outside the package do all that ours do (``tests/standins/strangers.py``)."""

import csv
import importlib
import inspect
import json
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from torch import nn

import vistok
from vistok import __main__ as program
from vistok.codec import codec_folder
from vistok.codec.reduction import tables_of
from vistok.commands.export import TARGETS
from vistok.evaluation.evaluate import evaluate
from vistok.formats import native
from vistok.training import cost, summary
from vistok.training import run as training_run

HERE = Path(__file__).parent
WORDS = ["trainer=debug", "quantizer=levels", "backbone=convnext", "model.latent_dim=4", "data.image_size=32"]
NETWORK = "{{_target_: strangers.ConvNeXt{}, dim: 16, depth: 1, factor: 4}}"
YAML = {
    "quantizer/levels.yaml": "_target_: strangers.Levels\nlevels: [5, 4, 3, 3]\n",
    "backbone/convnext.yaml": f"encoder: {NETWORK.format('Encoder')}\ndecoder: {NETWORK.format('Decoder')}\n",
}


@pytest.fixture(scope="module")
def strangers():
    """The module, which a user would have beside ``train.py``; nothing else is registered."""
    with pytest.MonkeyPatch.context() as patch:
        ours = {name: part for name, part in native.CLASSES.items() if part not in native.REGISTERED}
        patch.setattr(native, "CLASSES", ours)
        patch.syspath_prepend(HERE / "standins")
        patch.delitem(sys.modules, "strangers", raising=False)
        yield importlib.import_module("strangers")


@pytest.fixture(scope="module")
def configured(strangers, tmp_path_factory):
    """``configured(*overrides)``: a config of the strangers' parts, whose YAML lies in a folder of their own."""
    folder = tmp_path_factory.mktemp("configs")
    for name, text in YAML.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)

    def compose(*overrides):
        words = [f"hydra.searchpath=[file://{folder}]", *WORDS, *overrides]
        with hydra.initialize_config_dir(str(HERE.parent / "configs"), version_base="1.3"):
            return hydra.compose("train", overrides=words)

    return compose


@pytest.fixture(scope="module")
def run(configured, tmp_path_factory):
    """A finished run of two updates, the second with a discriminator."""
    folder = tmp_path_factory.mktemp("strangers") / "run"
    training_run.train(configured(f"run.dir={folder}"), [])
    return folder


@pytest.fixture(scope="module")
def tokenizer(run):
    return vistok.load(run)


def test_the_head_is_short(strangers):
    assert len(inspect.getsource(strangers.Levels).splitlines()) <= 80


def test_it_trains_and_its_health_is_logged(run):
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = [row for row in rows if row.get("codebook/usage")]
    assert len(logged) == 2 and all(0 < float(row["codebook/usage"]) <= 1 for row in logged)
    assert all(float(row["codebook/distance"]) > 0 for row in logged)
    assert "codebook/norm" not in rows[0] and "train/commitment" not in rows[0]
    assert json.loads((run / "metrics.json").read_text())["metrics"]["psnr"] > 0
    assert (run / "codebook.png").is_file()


def test_its_run_is_estimated(configured):
    config = configured()
    estimated = cost.estimate(lambda: training_run.build_module(config), 32, 2, precision="32-true")
    assert estimated.flops["image to codes"] > 0 and estimated.per_image > 0


def test_it_is_loaded_as_it_was(run, tokenizer, strangers):
    assert type(tokenizer.quantizer) is strangers.Levels and tokenizer.quantizer.levels == [5, 4, 3, 3]
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    codes = tokenizer.tokenize(images)
    assert codes.shape == (2, 1, 8, 12) and len(codes.unique()) > 1
    assert torch.equal(tokenizer.detokenize(codes), tokenizer.reconstruct(images)[0].clamp(-1, 1))


@pytest.mark.parametrize("target", ["folder", "torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_it_is_exported(tokenizer, tmp_path, target):
    """Each target loads what it has written, and compares."""
    parity = TARGETS[target](tokenizer, tmp_path / "out")
    assert parity.codes > 0 and parity.pixels < 1e-4


@pytest.mark.parametrize("target", ["diffusers", "llamagen", "janus"])
def test_what_others_have_no_place_for_is_said(tokenizer, tmp_path, target):
    with pytest.raises(ValueError, match="cannot represent .*; the targets onnx, torch and folder take it"):
        TARGETS[target](tokenizer, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_it_is_evaluated(run, tmp_path, compose):
    words = [
        "data=sample",
        "feature_network=none",
        "metrics.lpips={alex:null,vgg:null}",
        "data.image_size=32",
        "data.batch_size=8",
    ]
    report = evaluate(compose("eval", f"tokenizer={run}", f"run.out={tmp_path / 'report.json'}", *words))
    (scores,) = report["scores"]
    assert scores["metrics"]["bits_per_image"] == pytest.approx(64 * np.log2(180)) and scores["metrics"]["psnr"] > 0


def test_its_tokens_are_written(run, photos, tmp_path, monkeypatch):
    monkeypatch.setenv(native.IMPORTS, "strangers")
    words = ["--image-size", "32", "--num-workers", "0", "--batch-size", "4"]
    program.main(["tokenize", str(run), "--images", str(photos), "--out", str(tmp_path / "tokens"), *words])
    tokens = np.load(tmp_path / "tokens" / "shard-000000.tokens.npy")
    assert tokens.shape == (12, 1, 1, 8, 8) and tokens.max() < 180


def test_its_codewords_are_not_clustered(tokenizer, run, photos, tmp_path, capsys):
    message = "a Levels cannot be reduced or stored in files: it is neither one codebook nor several side by side"
    with pytest.raises(ValueError, match=message):
        tables_of(tokenizer.quantizer)
    with pytest.raises(SystemExit):
        program.main(["codec", "reduce", str(run), "--sizes", "4", "--out", str(tmp_path / "reduced")])
    assert f"error: {message}" in capsys.readouterr().err


def test_a_codec_stores_its_codes(tokenizer, run, photos, tmp_path, monkeypatch):
    monkeypatch.setenv(native.IMPORTS, "strangers")
    words = ["--images", str(photos), "--out", str(tmp_path / "codec"), "--image-size", "32"]
    program.main(["codec", "build", str(run), *words])
    codec = codec_folder.load(tmp_path / "codec")
    picture = torch.randint(256, (3, 32, 48), dtype=torch.uint8)
    _, codes, known = codec.read(codec.compress(picture))
    assert known.all() and np.array_equal(codes, tokenizer.tokenize(picture[None] / 127.5 - 1)[0])


def test_a_class_that_is_not_registered_is_refused_before_the_first_batch(configured, tmp_path, monkeypatch):
    monkeypatch.delitem(native.CLASSES, "Levels")
    with pytest.raises(
        ValueError, match=r"Levels cannot be exported: .*nor registered; vistok.register\(Levels\) makes it"
    ):
        training_run.train(configured(f"run.dir={tmp_path / 'run'}"), [])
    assert not (tmp_path / "run").exists()


def test_a_file_names_nothing_that_is_not_registered(run, monkeypatch):
    monkeypatch.delitem(native.CLASSES, "Levels")
    with pytest.raises(ValueError, match="unknown class 'Levels'.*VISTOK_IMPORT=MODULE"):
        vistok.load(run)


def test_a_run_whose_export_fails_is_closed_later(configured, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    words = [f"run.dir={folder}", "run.resume=auto", "loss=l1"]

    def fails(*_, **__):
        raise ValueError("no space for it")

    with monkeypatch.context() as patch:
        patch.setattr(summary, "save", fails)
        with pytest.raises(ValueError, match="no space for it\nThe run could not be exported. Its weights are kept"):
            training_run.train(configured(*words), [])
    assert (folder / "checkpoints" / "last.ckpt").is_file() and (folder / "checkpoints" / "slim.safetensors").is_file()
    assert not (folder / "metrics.json").exists()
    training_run.train(configured(*words), [])
    assert vistok.load(folder).quantizer.dim == 4 and (folder / "metrics.json").is_file()


class Forgetful(nn.Module):
    """Does not keep what it was made of."""

    def __init__(self, width: int):
        super().__init__()


def test_classes_that_cannot_be_registered(monkeypatch):
    monkeypatch.setattr(native, "CLASSES", dict(native.CLASSES))
    with pytest.raises(ValueError, match="takes a class, not 3"):
        vistok.register(3)
    with pytest.raises(ValueError, match="there is a SimVQ already, of vistok.quantizers.simvq"):
        vistok.register(type("SimVQ", (nn.Module,), {}))
    with pytest.raises(ValueError, match="Odd takes arguments without names"):
        vistok.register(type("Odd", (), {"__init__": lambda self, *sizes: None}))
    assert vistok.register(Forgetful) is Forgetful and vistok.register(Forgetful) is Forgetful
    with pytest.raises(ValueError, match="Forgetful cannot be exported: it does not keep its argument width"):
        native.describe(Forgetful(3))
