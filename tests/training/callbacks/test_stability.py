"""When the stability monitor speaks, what it says, and the script that records its bands."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
from PIL import Image

from vistok.training.callbacks.stability import StabilityMonitor, Streak, read_bands

ROOT = Path(__file__).parent.parent.parent.parent


def load(script):
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(script, ROOT / "benchmarks" / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    """As when one of the scripts is run, what they share can be imported."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "reference.csv"
    path.write_text("update,term,low,high\n100,train/l2,0.1,0.3\n0,train/l2,0.5,0.9\n0,train/psnr,5,50\n")
    return path


def test_a_streak_is_reported_once_and_begins_anew():
    streak, reported = Streak(), []
    for update, holds in enumerate([0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1]):
        if streak.observe(update, bool(holds), patience=2):
            reported.append((update, streak.since))
    assert reported == [(6, 4), (11, 9)]


def test_the_discriminator_wins():
    monitor = StabilityMonitor(patience=100)
    accuracy = {780: 0.9, 800: 1.0, 850: 0.998, 880: 1.0, 900: 1.0, 950: 1.0}
    lines = {u: monitor.check(u, {"train/accuracy_real": a, "train/accuracy_fake": 1.0}) for u, a in accuracy.items()}
    assert [update for update, found in lines.items() if found] == [900]
    assert lines[900][0].startswith("discriminator accuracy 100% since update 800: ")
    assert not monitor.check(1000, {"train/l2": 1.0}) and monitor.streaks["discriminator"].since is None


def test_bands_between_their_updates(reference):
    band = read_bands(reference)["train/l2"]
    assert band.at(50) == pytest.approx((0.3, 0.6))
    assert band.at(100) == (0.1, 0.3) and band.at(101) is None


def test_a_curve_leaves_its_band(reference):
    monitor = StabilityMonitor(reference, patience=20)
    values = {40: 0.5, 50: 0.7, 60: float("nan"), 70: 0.1, 80: 0.6, 200: 9.0}
    lines = {update: monitor.check(update, {"train/l2": value}) for update, value in values.items()}
    assert [update for update, found in lines.items() if found] == [70]
    assert lines[70] == [
        f"train/l2 has been outside the reference band since update 50: now 0.1, where {reference} has 0.22 to 0.48"
    ]


def test_its_state_survives_a_resume():
    monitor, resumed = StabilityMonitor(patience=100), StabilityMonitor(patience=100)
    won = {"train/accuracy_real": 1.0, "train/accuracy_fake": 1.0}
    assert not monitor.check(500, won)
    resumed.load_state_dict(monitor.state_dict())
    assert "since update 500" in resumed.check(600, won)[0] and not resumed.check(700, won)


@pytest.mark.parametrize("text, message", [
    (None, "log.loss_band=.* is not a file"),
    ("step,term\n1,train/l2\n", "must have the columns update, term, low, high"),
    ("update,term,low,high\n1,train/l2,x,2\n", "must have the columns"),
])  # fmt: skip
def test_wrong_references(tmp_path, text, message):
    path = tmp_path / "reference.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        StabilityMonitor(path)


@pytest.mark.slow
def test_a_run_says_that_it_left_the_band(train, tmp_path, capsys):
    reference = tmp_path / "reference.csv"
    reference.write_text("update,term,low,high\n0,train/l2,50,60\n1000,train/l2,50,60\n")
    train(tmp_path / "run", f"log.loss_band={reference}", "optim.updates=301", "log.every=100", "log.val_every=301")
    assert "train/l2 has been outside the reference band since update 100: now" in capsys.readouterr().out


def test_bands_are_recorded_from_runs(tmp_path):
    script = load("stability")
    curves = [
        {"train/l2": [(20, 1.0), (40, 3.0), (60, 2.0)], "train/lr": [(20, 1.0)]},
        {"train/l2": [(20, 2.0), (40, 2.0), (80, 4.0)]},
    ]
    rows = script.bands(curves, window=40)
    # updates 1 to 40 have 1 to 3 in all, 41 to 80 have 2 to 4; widened by half of that on each side
    assert rows == [(20, "train/l2", 0.0, 4.0), (60, "train/l2", 1.0, 5.0)]


@pytest.mark.slow
def test_the_script_records_and_draws(python, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", python)
    words = [
        "trainer=debug",
        "backbone=cnn_f8_small",
        "backbone.encoder.channels=8",
        "model.codebook_size=16",
        "model.latent_dim=4",
        "data.image_size=32",
    ]
    script = load("stability")
    script.main(
        [*words, "optim.updates=4", "log.val_every=4"], seeds=2, folder=tmp_path / "runs", output=tmp_path / "band"
    )
    with (tmp_path / "band.csv").open() as file:
        terms = {row["term"] for row in csv.DictReader(file)}
    assert {"train/l2", "train/psnr", "train/discriminator", "train/accuracy_real"} <= terms
    assert set(read_bands(tmp_path / "band.csv")) == terms and (tmp_path / "band.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_comparison_of_adversaries_runs(python, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", python)
    script = load("adversaries")
    words = ["trainer=debug", "backbone.encoder.channels=8", "model.codebook_size=16", "model.latent_dim=4"]
    names = ["L2 alone", "StyleGAN2, R1", "ST-LPIPS"]
    missing = f"ST-LPIPS={tmp_path / 'nothing.pth'}"
    arguments = script.parser().parse_args([*names, "--updates", "5", "--weights", missing])
    script.main(arguments, words, tmp_path / "runs")
    table = (tmp_path / "runs" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {name}" for name in names]
    assert table[2].startswith("| L2 alone | 5 | ") and " | – | " in table[2] and "%" in table[3]
    assert "not run" in table[4] and "nothing.pth" in table[4]
    assert len({line.count("|") for line in table}) == 1
    with Image.open(tmp_path / "runs" / "adversaries.jpg") as picture:
        assert picture.width > picture.height


def test_every_run_of_the_comparison_composes(compose):
    script = load("adversaries")
    for words in script.RUNS.values():
        config = compose("train", "trainer=debug", *words)
        assert set(config.loss.image_losses) <= set(config.loss.loss_weights)
    with_weights = {name: script.weights(name, "FILE") for name in ("LPIPS-VGG", "ST-LPIPS", "MobileNetV2 layers")}
    assert [word.split(".")[2] for word in with_weights.values()] == ["lpips", "stlpips", "features"]
    for name, word in with_weights.items():
        losses = compose("train", "trainer=debug", *script.RUNS[name], word).loss.image_losses
        assert "FILE" in [loss.get("weights") for loss in losses.values()]
    with pytest.raises(ValueError, match="--weights L2 alone=FILE: this run has no perceptual network"):
        script.weights("L2 alone", "FILE")
    folders = {script.folder_of(name, Path("runs")) for name in script.RUNS}
    assert len(folders) == len(script.RUNS)
