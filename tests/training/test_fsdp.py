"""``trainer=fsdp``: two processes that share encoder and decoder learn what one process learns, also resumed."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import vistok
from vistok.training import fsdp
from vistok.training import run as training_run

ROOT = Path(__file__).parent.parent.parent
WORDS = [
    "backbone=cnn_f8_small",
    "backbone.encoder.channels=8",
    "model.codebook_size=16",
    "model.latent_dim=4",
    "data.image_size=32",
    "log.every=1",
]
WORDS += ["schedule=constant", "optim.adversarial_start=1", "discriminator@loss.adversary.discriminator=patchgan_group"]
WORDS += ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "+optimizer.momentum=0.9", "optimizer.lr=0.01"]
WORDS += ["optim.clip=0.1", "trainer.limit_val_batches=2"]
FSDP = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]


def saved(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(compose, python, tmp_path):
    """Adversary with adaptive weight, clipping, moving averages; stopped after two updates and resumed."""
    words = [*WORDS, "optim.updates=4", "log.val_every=4", "data.batch_size=8", f"run.dir={tmp_path}/one"]
    training_run.train(compose("train", *words), words)
    for updates in (2, 4):
        done = subprocess.run(
            [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
             str(ROOT / "train.py"), *FSDP, *WORDS, f"optim.updates={updates}", "log.val_every=2", "data.batch_size=4",
             f"run.dir={tmp_path}/two", "run.resume=auto"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two")
    assert one["updates"] == two["updates"] == 4 and one["state_dict"].keys() == two["state_dict"].keys()
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], tensor, rtol=1e-4, atol=2e-5, msg=name)
    for ours, theirs in zip(two["optimizer_states"], one["optimizer_states"], strict=True):
        assert ours["state"].keys() == theirs["state"].keys() and theirs["state"]
        for i, state in theirs["state"].items():
            torch.testing.assert_close(
                ours["state"][i]["momentum_buffer"], state["momentum_buffer"], rtol=1e-3, atol=1e-5
            )
    exported = vistok.load(tmp_path / "two")
    assert torch.equal(exported.decoder.last_layer, two["state_dict"]["tokenizer.decoder.conv_out.weight"])
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["updates"] == 4


def test_without_parts_norm_and_clipping_are_torchs():
    torch.manual_seed(0)
    layers = nn.Linear(5, 3), nn.Linear(5, 3)
    layers[1].load_state_dict(layers[0].state_dict())
    for layer in layers:
        layer(torch.ones(2, 5)).square().sum().backward()
    ours, theirs = (list(layer.parameters()) for layer in layers)
    norm = fsdp.total_norm([parameter.grad for parameter in ours])
    assert torch.equal(norm, nn.utils.get_total_norm([parameter.grad for parameter in theirs]))
    fsdp.clip(ours, 0.1, norm)
    nn.utils.clip_grad_norm_(theirs, 0.1)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
    assert fsdp.groups(ours) == ours


def test_what_it_is_not_for(train, tmp_path):
    with pytest.raises(ValueError, match="optim.ema_decay=0.9 is not supported with trainer=fsdp"):
        train(tmp_path / "run", "trainer=fsdp", "optim.ema_decay=0.9", "run.debug=true")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="trainer.accelerator=gpu, but torch sees no GPU"):
            train(tmp_path / "run", "trainer=fsdp", "run.debug=true")
    assert not (tmp_path / "run").exists()
