"""``inspect RUN``: a finished run, one that was interrupted, one in progress."""

import re
import shutil
from pathlib import Path

import pytest

from vistok.commands import inspect
from vistok.processes import locks
from vistok.training import run as training_run


def lines(capsys, folder):
    capsys.readouterr()
    inspect.main([str(folder)])
    printed = capsys.readouterr().out
    return {line.split()[0]: line for line in printed.splitlines() if line.strip()} | {"": printed}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from ..conftest import TINY, compose

    folder = tmp_path_factory.mktemp("inspected") / "run"
    overrides = [*TINY, "optimizer.lr=0.002", f"run.dir={folder}"]
    training_run.train(compose("train", *overrides), overrides)
    return folder


def test_a_finished_run(run, capsys):
    found = lines(capsys, run)
    assert "SimpleNamespace" not in found[""] and "finished: 2 updates in 0:0" in found["state"]
    assert "VectorQuantizer" in found[""] and "16 codewords, 4 channels" in found[""]
    assert "learning rate 0.002" in found["training"] and "discriminator from update 1" in found["training"]
    assert re.search(r"psnr [0-9.]+ dB", found["held"]) and f"{run}/codebook.png" in found[""]
    assert f" -m vistok eval tokenizer={run}" in found["evaluate"] and "vistok.load" in found["load"]
    assert "one code for each 8 x 8 pixels" in found[""] and "resume" not in found


def test_a_run_that_was_interrupted(run, tmp_path, capsys):
    half = shutil.copytree(run, tmp_path / "half")
    (half / "metrics.json").unlink()
    shutil.rmtree(half / "tokenizer")
    text = (half / "config.yaml").read_text()
    (half / "config.yaml").write_text(text.replace("updates: 2\n", "updates: 500\n", 1))
    found = lines(capsys, half)
    assert f"interrupted: {half}/checkpoints/last.ckpt has 2 of 500 updates in 0:0" in found["state"]
    assert found["resume"].endswith(f"optimizer.lr=0.002 run.resume={half}/checkpoints/last.ckpt")
    assert "run.dir=" not in found["resume"] and "evaluate" not in found
    (half / "config.yaml").write_text(text.partition("\n")[2].replace("updates: 2\n", "updates: 500\n", 1))
    assert "the command that started it, with run.resume=" in lines(capsys, half)["resume"]
    with locks.held(half / locks.NAME, "run"):
        assert "in use by pid " in lines(capsys, half)["state"]
    shutil.rmtree(half / "checkpoints")
    assert "without a checkpoint: 2 of 500 updates" in lines(capsys, half)["state"]


def test_a_folder_with_a_damaged_config(tmp_path, capsys):
    (tmp_path / "config.yaml").write_bytes(b"# arguments: [1]\ndata: 3\nloss: {loss_weights: x}")
    assert "without a checkpoint" in lines(capsys, Path(tmp_path))["state"]
