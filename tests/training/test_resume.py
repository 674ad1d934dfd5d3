"""Runs that are killed, preempted or find damaged checkpoints, and go on as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vistok
from vistok.commands import runs
from vistok.training import run as training_run
from vistok.training import run_folder, slim_checkpoint
from vistok.training.checkpoint_io import older

from ..conftest import TINY

ROOT = Path(__file__).parent.parent.parent
LAST = 80  # update: far enough that none is over before it is killed
WORDS = [*TINY, f"optim.updates={LAST}", f"log.val_every={LAST}", "log.every=4", "log.save_every=5"]
WORDS += ["schedule=constant", "optim.ema_decay=0.9"]


def start(python, run, *words):
    """``train.py`` in a process of its own."""
    return subprocess.Popen(
        [python, str(ROOT / "train.py"), *WORDS, *words, f"run.dir={run}", "run.resume=auto"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def saved(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def wait_for_update(run, process, update):
    """Until the run has saved a checkpoint of at least so many updates."""
    last = run / "checkpoints" / "last.ckpt"
    while process.poll() is None:
        if last.exists() and saved(run)["updates"] >= update:
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate()[0])


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_one_never_killed(python, tmp_path):
    """SIGKILL at drawn moments in drawn settings, two processes among them: everything they leave is equal."""
    done = subprocess.run(
        [python, ROOT / "benchmarks" / "resume.py", "--kills", "3", "--only", "2", "3", "--out", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "resume.json").read_text())
    assert sum(result["kills"] for result in results) >= 4 and results[1]["repairs"]
    assert {result["setting"]["processes"] for result in results} == {"1", "2"}


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_preempted_it_saves_and_exits_with_a_status_of_its_own(python, tmp_path, number, status):
    process = start(python, tmp_path / "run", "optim.updates=5000", "log.val_every=5000", "log.save_every=2")
    wait_for_update(tmp_path / "run", process, 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output
    assert f"run.resume={tmp_path}/run/checkpoints/last.ckpt" in output and "Traceback" not in output
    assert saved(tmp_path / "run")["updates"] < 5000


def test_fine_tuning_begins_with_the_weights_of_another_run(train, compose, tmp_path):
    first = train(tmp_path / "first", "quantizer=simvq", "optim.ema_decay=0.5", "optim.updates=3")
    slim = load_file(first / "checkpoints" / "slim.safetensors")
    for init in (first, first / "checkpoints" / "slim.safetensors"):
        config = compose("train", *TINY, "quantizer=simvq", "optim.ema_decay=0.5", f"model.init={init}")
        _, lit = training_run.build(config)
        slim_checkpoint.load_slim(lit, Path(config.model.init))
        for tokenizer in (lit.tokenizer, lit.average.tokenizer):
            assert all(torch.equal(tensor, slim[name]) for name, tensor in tokenizer.state_dict().items())
    assert vistok.load(first).decoder.last_layer.equal(slim["decoder.conv_out.weight"])
    second = train(
        tmp_path / "second", "quantizer=simvq", f"model.init={first}", "optimizer.lr=0", "optim.adversarial_start=5"
    )
    for name, tensor in load_file(second / "checkpoints" / "slim.safetensors").items():
        torch.testing.assert_close(tensor, slim[name], msg=name)


@pytest.mark.parametrize("words, message", [
    (["model.init=nothing.safetensors"], "model.init=nothing.safetensors is not a file"),
    (["model.init={broken}"], "broken.safetensors cannot be read"),
    (["model.init={run}", "quantizer=simvq"],
     r"(?s)does not fit the config:.*quantizer.basis: only in the config's model"),
])  # fmt: skip
def test_what_fine_tuning_cannot_begin_with(train, trained, tmp_path, words, message):
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    words = [word.format(broken=tmp_path / "broken.safetensors", run=trained) for word in words]
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


def test_auto_starts_a_run_where_there_is_none(train, tmp_path):
    run = train(tmp_path / "run", "run.resume=auto")
    assert json.loads((run / "metrics.json").read_text())["updates"] == 2


def test_auto_goes_on_from_the_newest(train, tmp_path, capsys):
    words = ["schedule.decay=constant", "log.keep_checkpoints=3"]
    run = train(tmp_path / "run", *words, "optim.updates=2", "run.resume=auto")
    train(run, *words, "optim.updates=4", "run.resume=auto")
    train(run, *words, "optim.updates=6", "run.resume=auto")
    last = run / "checkpoints" / "last.ckpt"
    assert [torch.load(older(last, i), weights_only=True)["updates"] for i in range(3)] == [6, 4, 2]
    last.write_bytes(last.read_bytes()[:1000])  # cut short by a crash
    train(run, *words, "optim.updates=8", "run.resume=auto")
    assert "last.ckpt is damaged and skipped" in capsys.readouterr().out
    assert saved(run)["updates"] == 8


def test_auto_without_a_folder_takes_the_newest_of_that_name(train, compose, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        train(tmp_path / "runs" / "sample-debug" / name, "schedule.decay=constant")
        time.sleep(0.01)
    training_run.train(compose("train", *TINY, "schedule.decay=constant", "optim.updates=4", "run.resume=auto"), [])
    found = {path.parts[-3]: torch.load(path, weights_only=True)["updates"] for path in tmp_path.rglob("last.ckpt")}
    assert found == {"first": 2, "second": 4}


def test_auto_leaves_a_run_on_another_folder_of_that_name(compose, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for root, run in (("here/photos", "1"), ("there/photos", "2"), ("moved/photos", "3")):
        (tmp_path / root).mkdir(parents=True)
        checkpoint = tmp_path / "runs" / "photos" / run / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        os.utime(checkpoint.parent, (int(run), int(run)))
        (checkpoint.parents[1] / "config.yaml").write_text(f"data: {{root: {root}}}\n")
    shutil.rmtree("moved")
    config = compose("train", "data=folder", "data.root=here/photos", "run.name=photos")
    assert run_folder.newest_run(config) == Path("runs/photos/3")  # its images may be those that are here now
    shutil.rmtree("runs/photos/3")
    assert run_folder.newest_run(config) == Path("runs/photos/1")


def test_the_time_of_all_attempts(train, tmp_path, capsys):
    run = train(tmp_path / "run", "schedule.decay=constant")
    last = run / "checkpoints" / "last.ckpt"
    first = json.loads((run / "metrics.json").read_text())["seconds"]
    assert 0 < saved(run)["seconds"] <= first + 0.1
    torch.save(saved(run) | {"seconds": 5000.0}, last)
    train(run, "schedule.decay=constant", "optim.updates=4", "run.resume=auto")
    assert 5000 < json.loads((run / "metrics.json").read_text())["seconds"] < 6000
    runs.main([str(run)])
    printed = capsys.readouterr().out
    assert "after 4 updates and 50" in printed and "1:23:" in printed


def test_auto_begins_again_what_was_killed_before_its_first_checkpoint(train, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("run: {seed: 0}\n")
    (run / "metrics.csv").write_text("updates\n1\n")
    train(run, "run.resume=auto")
    assert saved(run)["updates"] == 2 and (run / "metrics_1.csv").is_file()


def test_auto_closes_what_was_killed_after_its_last_checkpoint(train, tmp_path):
    run = train(tmp_path / "run", "optim.ema_decay=0.5")
    report = (run / "metrics.json").read_text()
    metrics, weights = json.loads(report)["metrics"], (run / "tokenizer" / "model.safetensors").read_bytes()
    (run / "metrics.json").unlink()
    shutil.rmtree(run / "tokenizer")
    (run / "checkpoints" / "slim.safetensors").unlink()
    train(run, "optim.ema_decay=0.5", "run.resume=auto")
    closed = json.loads((run / "metrics.json").read_text())
    assert closed["updates"] == 2 and closed["metrics"] == metrics
    assert (run / "tokenizer" / "model.safetensors").read_bytes() == weights
    assert (run / "checkpoints" / "slim.safetensors").is_file()
    with pytest.raises(ValueError, match="has made all of its updates: 2; raise optim.updates= to continue"):
        train(run, "optim.ema_decay=0.5", "run.resume=auto")


def test_validations_draw_no_numbers_of_the_training(train, tmp_path):
    """A resumed process makes its loaders anew before another validation than the one that was never killed."""
    words = ["quantizer.restart=0.5", "model.codebook_size=64", "schedule.decay=constant"]
    words += ["data.num_workers=1", "log.val_every=2"]
    whole = train(tmp_path / "whole", *words, "optim.updates=6")
    train(tmp_path / "part", *words, "optim.updates=2")
    part = train(tmp_path / "part", *words, "optim.updates=6", "run.resume=auto")
    ours, theirs = saved(part), saved(whole)
    assert torch.equal(theirs["random_state"]["cpu"], ours["random_state"]["cpu"])
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name


def test_auto_begins_in_a_folder_without_files(train, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert saved(train(tmp_path / "run", "run.resume=auto"))["updates"] == 2


def test_auto_overwrites_nothing_else(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="exists already and is not overwritten"):
        train(tmp_path / "run", "run.resume=auto")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]
