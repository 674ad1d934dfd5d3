"""``train.py``: a run from beginning to end, what it leaves, and how it refuses."""

import copy
import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers.logger import DummyLogger

import vistok
from vistok.commands import failures
from vistok.data import sample
from vistok.processes import locks
from vistok.training import run as training_run

ROOT = Path(__file__).parent.parent.parent


def completed(*words, cwd, **environment):
    """A process of an interpreter, in another folder."""
    return subprocess.run(
        [*map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_what_a_run_leaves(trained):
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints",
        "codebook.png",
        "config.yaml",
        "metrics.csv",
        "metrics.json",
        "reconstructions.png",
        "tokenizer",
    }
    with Image.open(trained / "reconstructions.png") as grid:
        assert grid.width > 8 * 128 and grid.height > 2 * 128
    report = json.loads((trained / "metrics.json").read_text())
    assert report["updates"] == 2 and 0 < report["metrics"]["psnr"] < report["metrics"]["psnr_bicubic"]
    assert report["metrics"]["tokens"] == report["metrics"]["images"] * 16  # 4 x 4 codes of each
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert [row["updates"] for row in rows if row["train/l2"]] == ["1.0", "2.0"]
    assert rows[-1]["val/psnr"] and OmegaConf.load(trained / "config.yaml").run.dir == str(trained)


def test_the_exported_tokenizer_is_the_trained_one(trained):
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    _, lit = training_run.build(OmegaConf.load(trained / "config.yaml"))
    lit.load_state_dict(checkpoint["state_dict"], strict=False)
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    loaded, original = vistok.load(trained / "tokenizer"), lit.evaluated.eval()
    codes = original.tokenize(images)
    assert torch.equal(loaded.tokenize(images), codes)
    assert torch.equal(loaded.detokenize(codes), original.detokenize(codes))


@pytest.mark.parametrize("overrides", [
    *(["quantizer=" + path.stem] for path in sorted((ROOT / "configs" / "quantizer").glob("*.yaml"))),
    ["quantizer=fq", "quantizer@quantizer.head=simvq"],
    ["quantizer=fq", "quantizer@quantizer.head=vqbridge"],
    ["quantizer=dqvae", "quantizer@quantizer.head=simvq"],
    ["quantizer=vqbridge", "quantizer.variant=dit", "schedule=annealed", "optim.ema_decay=0.9"],
    ["quantizer=vq", "estimator=rotation"],
    ["quantizer=vq", "estimator=diveq", "quantizer.kmeans_updates=1", "optim.accumulate=2"],
])  # fmt: skip
def test_every_head_trains_and_is_exported(train, tmp_path, overrides):
    run = train(tmp_path / "run", *overrides, "loss=l1")
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    _, lit = training_run.build(OmegaConf.load(run / "config.yaml"))
    lit.load_state_dict(checkpoint["state_dict"], strict=False)
    images = torch.rand(2, 3, 32, 64) * 2 - 1
    loaded, original = vistok.load(run), lit.evaluated.eval()
    theirs, ours = loaded.quantize(images), original.quantize(images)
    assert torch.equal(theirs.codes, ours.codes)
    assert theirs.keep is None or torch.equal(theirs.keep, ours.keep)
    assert torch.equal(loaded.detokenize(theirs.codes, (32, 64)), original.detokenize(ours.codes, (32, 64)))
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    positions = math.prod(original.quantizer.layout(4, 4).positions)
    assert metrics["tokens"] <= positions * metrics["images"] and metrics["psnr"] > 5


@pytest.mark.parametrize("overrides", [
    [],
    ["loss=l1", "quantizer=vq"],
    ["optim.ema_decay=0.9", "optim.accumulate=2"],
    ["loss=l1", "quantizer=vq", "quantizer.kmeans_updates=3", "quantizer.restart=0.1", "optim.ema_decay=0.9"],
    ["loss=l1", "quantizer=dqvae", "quantizer@quantizer.head=vqbridge"],  # draws noise in training
])  # fmt: skip
def test_a_resumed_run_ends_as_one_without_a_break(train, tmp_path, overrides):
    overrides = [*overrides, "schedule.decay=constant"]
    whole = train(tmp_path / "whole", *overrides, "optim.updates=4")
    part = train(tmp_path / "part", *overrides, "optim.updates=2")
    train(part, *overrides, "optim.updates=4", f"run.resume={part}/checkpoints/last.ckpt")
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, part)]
    assert states[0]["updates"] == states[1]["updates"] == 4
    for name, tensor in states[0]["state_dict"].items():
        assert torch.equal(states[1]["state_dict"][name], tensor), name
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(vistok.load(whole).tokenize(images), vistok.load(part).tokenize(images))
    steps = [[row["step"] for row in csv.DictReader((run / "metrics.csv").open())] for run in (whole, part)]
    assert steps[0] == steps[1] and not (part / "metrics_1.csv").exists()  # nothing is lost, nothing there twice


def test_a_run_resumes_with_another_memory_layout(train, tmp_path):
    """The states of fused Adam follow the weights."""
    first = train(tmp_path / "first", "optim.updates=2", "schedule.decay=constant")
    words = ["optim.updates=4", "schedule.decay=constant", f"run.resume={first}/checkpoints/last.ckpt"]
    shutil.copytree(first, tmp_path / "second")
    second = train(
        tmp_path / "second",
        *words[:2],
        f"run.resume={tmp_path}/second/checkpoints/last.ckpt",
        "speed.channels_last=true",
    )
    train(first, *words)
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (first, second)]
    name = "tokenizer.encoder.levels.0.blocks.0.conv1.weight"
    assert states[1][name].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(states[1][name], states[0][name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("overrides, message", [
    (["data=folder"], r"missing on the command line: data.root=..."),
    (["data=folder", "data.root=/nowhere"], "data.root=/nowhere is not a folder"),
    (["data.image_size=30"], "data.image_size=30 is not a multiple of the tokenizer's factor 8"),
    (["~loss.loss_weights.l2", "+loss.loss_weights.l1=1"], r"without a weight: \['l2'\]; without a term: \['l1'\]"),
    (["run.debug=false"], "run.frozen_weights=random trains on meaningless losses"),
    (["run.debug=false", "run.frozen_weights=pretrained", "loss=fqgan_dual",
      "loss.latent_losses.semantic.teacher.weights=random"],
     "loss.latent_losses.semantic.teacher.weights=random trains on meaningless losses"),
    (["trainer.precision=16-mixed"], "trainer.precision=16-mixed is not supported"),
    (["optim.updates=0"], "optim.updates must be at least 1, not 0"),
    (["tokenizer.from_latent.out_channels=48"], "from_latent maps 4 to 48 channels"),
    (["tokenizer.to_latent=null"], "to_latent must map one to the other"),
    (["run.resume=nothing.ckpt"], "run.resume=nothing.ckpt is not a file"),
    (["optim.on_collapse=pray"], "^optim.on_collapse=pray must be restart or reinitialise or null$"),
    (["quantizer=fq", "quantizer.num_codebooks=3"], "num_codebooks=3 does not divide the latent's 4 channels"),
    (["quantizer=vqbridge", "quantizer.patch=5"], "patch=5 must be between 1 and 4"),
    (["estimator=diveq"], "it cannot go with ema_decay=0.95"),
    (["model.codebook_size=1"], "codebook_size must be at least 2, not 1"),
    (["quantizer=dqvae", "quantizer.rates=[1.5]"], "must be shares in"),
    (["quantizer.codebook_size=-3"], "codebook_size must be at least 2, not -3"),
    (["optimizer.lr=-1"], "^optimizer: Invalid learning rate: -1$"),
    (["optimizer=null"], "^optimizer: "),
    (["backbone.encoder.multipliers=[]"], "^tokenizer.encoder: IndexError: "),
    (["+quantizer.nonsense=1"], "^quantizer.nonsense: vistok.quantizers.VectorQuantizer has no such arg"),
    (["+quantizer.cosin=true"], "^quantizer.cosin: .* no such argument; did you mean cosine[?]$"),
    (["quantizer._target_=nothing.at.all"], "No module named 'nothing'"),
    (["model.latent_dim=0"], "^model.latent_dim must be at least 1, not 0$"),
    (["quantizer.dim=0", "tokenizer.to_latent.out_channels=0", "tokenizer.from_latent.in_channels=0"],
     r"^tokenizer.to_latent.weight would have the shape \(0, 64, 1, 1\)"),
    (["model.codebook_size=100000000000000"], "^out of memory: "),
    (["trainer.devices=abc"], "^trainer: `devices`"),
    (["trainer.max_time=abc"], "^MisconfigurationException: .*Timer"),
    (["trainer.accelerator=mps"], "^trainer.accelerator=mps must be cpu or gpu: .* Apple's GPUs"),
    (["data=shards", "data.val_urls=/etc/passwd"], "data.urls=null: there are no shards to train on"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_before_work(train, tmp_path, overrides, message):
    with pytest.raises(Exception) as refused:
        train(tmp_path / "run", *overrides)
    assert re.search(message, failures.message_of(refused.value))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there(train, tmp_path):
    with pytest.raises(ValueError, match="trainer.accelerator=gpu, but torch sees no GPU"):
        train(tmp_path / "run", "trainer.accelerator=gpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folder", ["/sys/foo", "/proc/foo", "/etc/passwd/x"])
def test_a_run_folder_that_cannot_be_made(train, folder):
    with pytest.raises(ValueError, match=f"^run.dir={folder}: "):
        train(Path(folder))


@pytest.mark.parametrize("words, message", [
    ([], "no images are left to train on in .*one: it has 1 image, held out for validation"),
    (["data.val_count=1"], "data.val_count=1 leaves none of 1 images to train on"),
    (["data.val_count=-1"], "data.val_count must be at least 0, not -1"),
])  # fmt: skip
def test_a_folder_with_one_image_or_none(train, tmp_path, words, message):
    (tmp_path / "one").mkdir()
    of_folder = ["data=folder", f"data.root={tmp_path}/one", "data.num_workers=0", "loss=l1"]
    with pytest.raises(Exception) as refused:
        train(tmp_path / "run", *of_folder)
    assert "no images found in" in failures.message_of(refused.value)
    Image.new("RGB", (32, 32)).save(tmp_path / "one" / "a.png")
    with pytest.raises(Exception) as refused:
        train(tmp_path / "run", *of_folder, *words)
    assert re.search(message, failures.message_of(refused.value)) and not (tmp_path / "run").exists()


def test_a_run_folder_in_use(train, trained, tmp_path):
    """Also where the second start would go on in it; a run's own lock is gone at its end."""
    assert not (trained / locks.NAME).exists()
    for run, words in ((trained, ["run.resume=auto", "optim.updates=3"]), (trained, []), (tmp_path / "new", [])):
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        said = f"run.dir={run} is in use by pid {os.getpid()} on .* since 2"
        with locks.held(run / locks.NAME, "another run"), pytest.raises(ValueError, match=said):
            train(run, *words)
        assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / locks.NAME).write_text("")  # of a run that was killed at once
    assert (train(tmp_path / "new", "loss=l1") / "metrics.json").is_file()
    assert not (tmp_path / "new" / locks.NAME).exists()


class Refusing(DummyLogger):
    """Like wandb's without an account."""

    @property
    def experiment(self):
        raise KeyError("api_key not configured")


def test_a_logger_that_cannot_begin_ends_the_run_before_its_folder(train, tmp_path, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.loggers.TensorBoardLogger", lambda **_: Refusing())
    with pytest.raises(ValueError, match="^logger=refusing: KeyError: 'api_key not configured'"):
        train(tmp_path / "run", "logger=tensorboard")
    assert not (tmp_path / "run").exists()


def test_values_of_another_kind_name_the_key_that_is_set(compose):
    config = compose("train", "trainer=debug", "+data.crop=random")
    for key, values, message in (
        ("optim.updates", ("abc", 1.5, None, True, [1]), "{} must be a whole number"),
        ("quantizer.codebook_size", ("abc", 1.5, None, True), "{} must be a whole number"),
        ("model.codebook_size", ("abc",), "{} must be a whole number"),  # where it is set, not where it is given to
        ("data.image_size", ("abc",), "{} must be a whole number"),
        ("data.batch_size", (2.5,), "{} must be a whole number"),
        ("model.latent_dim", ("abc",), "{} must be a whole number"),
        ("log.save_every", ("abc",), "{} must be a whole number or null"),
        ("optim.clip", ("abc", True), "{} must be a number or null"),
        ("optimizer.lr", ("abc",), "{} must be a number or Tensor"),
        ("optimizer.betas", ("abc", [1]), "{} must be a list, each a number or Tensor"),
        ("loss.loss_weights.l2", ("abc", None), "{} must be a number"),
        ("quantizer.loss_weights.commitment", ("abc", None), "{} must be a number"),
        ("data.crop", ([1], None, "five"), "{} must be one of random, adm, center"),
        ("schedule.decay", ("step",), "{} must be one of constant, linear, cosine"),
        ("speed.compile", ("fast",), "{} must be one of default, reduce-overhead, max-autotune or null"),
        ("data.num_workers", ("abc",), "{} must be a whole number"),
        ("backbone.encoder.multipliers", ("abc", [1, "a"]), "{} must be a list, each a whole number"),
        ("tokenizer.to_latent", (3,), "{} must be Conv2d or null"),
        ("speed.channels_last", ("abc",), "{} must be true or false"),
        ("run.debug", ("abc",), "{} must be true or false"),
        ("run.resume", (7,), "{0} must be text or null, in quotes: 'run.resume=\"7\"'"),
        ("run.seed", (-1,), "run.seed must be at least 0, not -1"),
    ):
        for value in values:
            changed = copy.deepcopy(config)
            OmegaConf.update(changed, key, value)
            shown = {None: "null", True: "true"}.get(value, value) if not isinstance(value, list) else value
            with pytest.raises(ValueError) as refused:
                training_run._check_config(changed)
                raise AssertionError(f"{key}={shown} was let through")
            assert str(refused.value) == message.format(f"{key}={shown}")


def test_a_run_folder_is_never_overwritten(train, trained):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    with pytest.raises(ValueError, match="exists already and is not overwritten"):
        train(trained)
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*")}


def test_a_checkpoint_that_does_not_fit_names_keys_and_shapes(train, trained, tmp_path):
    checkpoint = f"run.resume={trained}/checkpoints/last.ckpt"
    with pytest.raises(ValueError) as refused:
        train(tmp_path / "run", checkpoint, "optim.updates=4", "quantizer.codebook_size=8", "loss=l1")
    text = str(refused.value)
    assert re.search(r"tokenizer.quantizer.table: \(16, 4\) in the file, \(8, 4\) here", text)
    assert "adversary.discriminator.layers.0.weight: only in the file" in text
    with pytest.raises(ValueError, match="has made all of its updates: 2"):
        train(tmp_path / "run", checkpoint)


def test_files_that_are_no_checkpoints(train, trained, tmp_path):
    (tmp_path / "nonsense.ckpt").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="nonsense.ckpt cannot be read as a checkpoint"):
        train(tmp_path / "run", f"run.resume={tmp_path}/nonsense.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="other.ckpt is not a checkpoint of a run of train.py"):
        train(tmp_path / "run", f"run.resume={tmp_path}/other.ckpt")


def test_the_command_line(python, tmp_path):
    """In a folder of its own: messages instead of tracebacks, and runs that never share a folder."""
    tiny = [
        "trainer=debug",
        "backbone=cnn_f8_small",
        "backbone.encoder.channels=8",
        "data.image_size=32",
        "quantizer.codebook_size=16",
    ]
    refused = completed(python, ROOT / "train.py", "data=folder", "data.root=nowhere", cwd=tmp_path)
    assert refused.returncode == 1 and "error: data.root=nowhere is not a folder" in refused.stderr
    assert "Traceback" not in refused.stderr and not list(tmp_path.iterdir())
    refused = completed(sys.executable, ROOT / "train.py", "nonsense=1", cwd=tmp_path)  # by Hydra
    assert refused.returncode == 1 and refused.stderr == "error: there is no key nonsense; --help lists all keys\n"

    done = completed(sys.executable, ROOT / "train.py", *tiny, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    name = "sample-cnn_f8_small-encoder.channels8-image_size32-e8cc25"  # too long without a hash
    assert "psnr bicubic" in done.stdout and f"python {ROOT}/eval.py tokenizer=runs/{name}/" in done.stdout
    (run,) = (tmp_path / "runs" / name).iterdir()
    assert (run / "tokenizer" / "model.safetensors").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}

    scored = completed(
        sys.executable,
        ROOT / "eval.py",
        f"tokenizer={run}/tokenizer",
        "data=sample",
        "data.image_size=32",
        cwd=tmp_path,
    )
    assert scored.returncode == 0, scored.stderr
    (report,) = (tmp_path / "evaluations").glob("*.json")
    (score,) = json.loads(report.read_text())["scores"]
    assert score["metrics"]["bits_per_image"] == 16 * 4


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(python, tmp_path):
    words = [
        "trainer=debug",
        "backbone=cnn_f8_small",
        "backbone.encoder.channels=8",
        "data.image_size=32",
        "optim.updates=2000",
        "log.val_every=2000",
    ]
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [python, str(ROOT / "train.py"), *words, f"run.dir={folder}", "log.every=1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("update "):
            process.send_signal(signal.SIGINT)
            break
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130, "".join(lines) + rest
    assert f"run.resume={folder}/checkpoints/last.ckpt" in rest and "Traceback" not in rest
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert 1 <= saved["updates"] < 2000
    command = re.search(rf"python {ROOT}/train.py (.*)", rest)[1].split()
    command = [word for word in command if not word.startswith("optim.updates=")]
    resumed = completed(python, ROOT / "train.py", *command, f"optim.updates={saved['updates'] + 2}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((folder / "metrics.json").read_text())["updates"] == saved["updates"] + 2


@pytest.mark.slow
def test_two_processes_share_one_run_folder(tmp_path):
    """Under torchrun on the CPU: the ranks agree on a folder, and on the weights they end with."""
    done = completed(
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", ROOT / "train.py", "trainer=ddp"),
        *(
            "trainer.accelerator=cpu",
            "trainer.devices=2",
            "trainer.precision=32-true",
            "optim.updates=3",
            "schedule.warmup=0",
        ),
        *(
            "optim.adversarial_start=1",
            "data.image_size=32",
            "data.batch_size=2",
            "backbone=cnn_f8_small",
            "backbone.encoder.channels=8",
            "log.val_every=3",
        ),
        *("log.every=1", "quantizer=vq_ema"),
        cwd=tmp_path,
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "runs").glob("sample-*/*")
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert metrics["images"] == len(sample(32, batch_size=1).val)
    assert metrics["tokens"] == metrics["images"] * 16


def test_tensorboard_gets_pictures(train, tmp_path):
    pytest.importorskip("tensorboard")
    run = train(tmp_path / "run", "logger=tensorboard")
    (events,) = (run / "tensorboard").glob("events.*")
    content = events.read_bytes()
    assert b"reconstructions" in content and b"codebook" in content and b"val/psnr" in content


@pytest.mark.slow
def test_wandb_without_a_login_is_offline(python, tmp_path):
    """It keeps pictures and histograms, and prints the command that uploads them."""
    words = [
        "trainer=debug",
        "backbone=cnn_f8_small",
        "backbone.encoder.channels=8",
        "data.image_size=32",
        "logger=wandb",
    ]
    left = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "WANDB_BASE_URL": "https://wandb.invalid"}
    done = completed(python, ROOT / "train.py", *words, "run.dir=run", cwd=tmp_path, **left)
    assert done.returncode == 0, done.stdout + done.stderr
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert "wandb is offline, since there is no login for wandb.invalid" in done.stdout
    assert f"wandb login && wandb sync run/wandb/{offline.name}\n" in done.stdout
    pictures = {path.name.split("_")[0] for path in (offline / "files" / "media" / "images").iterdir()}
    assert pictures == {"reconstructions", "codebook"}
    assert b"log10_counts" in next(offline.glob("*.wandb")).read_bytes()


def test_time_limit_ends_a_run_properly(train, tmp_path, capsys):
    run = train(tmp_path / "run", "optim.updates=100000", "log.val_every=100000", "trainer.max_time=00:00:00:01")
    report = json.loads((run / "metrics.json").read_text())
    assert 0 < report["updates"] < 100000 and "psnr" in report["metrics"]
    assert "stopped after" in capsys.readouterr().out


def test_help_lists_the_groups(tmp_path):
    shown = completed(sys.executable, ROOT / "train.py", "--help", cwd=tmp_path)
    assert shown.returncode == 0
    heads = ", ".join(sorted(path.stem for path in (ROOT / "configs" / "quantizer").glob("*.yaml")))
    assert f"quantizer: {heads}" in " ".join(shown.stdout.split())  # lines are wrapped
