"""One process and several with the same global batch learn the same."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent

PROGRAM = """
import sys
from datetime import timedelta
from functools import partial
import pytorch_lightning as pl
import torch
from vistok.training.data_parallel import ReplicatedStrategy
from torch import nn
from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.data import sample
from vistok.training.callbacks.codebook_health import CodebookHealth
from vistok.losses import R1, Adversary, LeCam
from vistok.quantizers import DynamicQuantizer, EntropyRouter, SimVQ, VectorQuantizer, factorized
from vistok.training.schedules import Schedule
from vistok.training.module import LitTokenizer

torch.set_num_threads(1)
torch.backends.mkldnn.enabled = False  # its last digits depend on the size of a batch, and nearly equal codes on these
names, world, output = sys.argv[1].split(","), int(sys.argv[2]), sys.argv[3]
heads = {
    "ema": lambda: VectorQuantizer(32, 4, ema_decay=0.9, restart=0.5, kmeans_updates=2),
    "restart": lambda: VectorQuantizer(64, 4, restart=1.0, restart_unit="vector"),
    "few vectors": lambda: VectorQuantizer(2048, 4, ema_decay=0.9, restart=0.1),
    "entropy": lambda: factorized(partial(VectorQuantizer, 16, cosine=True, entropy_temperature=0.1), 2, 4),
    "dynamic": lambda: DynamicQuantizer(SimVQ(32, 4), EntropyRouter([2.0], patch=8), rates=[0.3]),
}
weights = {"l1": 1.0, "commitment": 0.25, "codebook": 1.0, "entropy": 0.1, "disentanglement": 0.1, "budget": 1.0}
results = {}
for name in names:
    pl.seed_everything(0, verbose=False)
    size = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": (1,), "dim": 8, "patch": 2}
    head = heads[name]()
    tokenizer = Tokenizer(CNNEncoder(**size), head, CNNDecoder(**size), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1))
    judge = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 4, 2, 1))  # no batch statistics
    lit = LitTokenizer(
        tokenizer,
        {"l1": nn.L1Loss()},
        {term: weights[term] for term in ("l1", *head.loss_names)}
        | {"adversarial": 0.1, "discriminator": 1.0, "r1": 1.0, "lecam": 0.1},
        partial(torch.optim.SGD, lr=0.01),  # Adam would make much of the last bits of a small gradient
        Schedule(4),
        adversary=Adversary(
            judge, adaptive=True, warmup=3, regularizers={"r1": R1(every=3), "lecam": LeCam(decay=0.5)}
        ),
        ema_decay=0.9,
        clip=1.0,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=ReplicatedStrategy(timedelta(minutes=5)) if world > 1 else "auto",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=4,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        callbacks=[CodebookHealth()],
        use_distributed_sampler=False,
    )
    trainer.fit(lit, datamodule=sample(image_size=32, batch_size=8 // world))
    results[name] = lit.state_dict(), dict(trainer.callback_metrics)
if trainer.is_global_zero:
    torch.save(results, output)
"""


def learn(python, tmp_path, names, world):
    """State and metrics of a run of each name, one after the other in as many processes."""
    output = tmp_path / f"{world}.pt"
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={world}", "--standalone"] if world > 1 else []
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [python, *launcher, str(program), ",".join(names), str(world), str(output)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(output, weights_only=False)


@pytest.mark.slow
def test_several_processes_learn_what_one_does(python, tmp_path):
    """Weights, codebook, averages, losses, usage and metrics, but for the order of sums."""
    every = ("ema", "restart", "few vectors", "entropy", "dynamic")
    alone = learn(python, tmp_path, every, 1)
    for world, names in ((2, every), (4, ("ema", "entropy"))):
        others = learn(python, tmp_path, names, world)
        for name in names:
            (state, metrics), (other_state, other_metrics) = alone[name], others[name]
            assert set(other_state) == set(state)
            for key, tensor in state.items():
                told = f"{name}, {world} processes, {key}"
                torch.testing.assert_close(
                    other_state[key], tensor, rtol=1e-4, atol=5e-5, msg=lambda m, t=told: f"{t}: {m}"
                )
            assert set(other_metrics) == set(metrics) and metrics
            for key, value in metrics.items():
                told = f"{name}, {world} processes, {key}"
                torch.testing.assert_close(
                    other_metrics[key], value, rtol=1e-3, atol=1e-4, msg=lambda m, t=told: f"{t}: {m}"
                )


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [1, 5])
def test_ranks_without_an_image_and_uneven_last_batches(python, tmp_path, photos, held_out):
    """Three ranks validate on one image, and on five, of which one rank has a batch less: none waits for another."""
    run = tmp_path / "run"
    words = [
        "backbone=cnn_f8_small",
        "backbone.encoder.channels=8",
        "model.codebook_size=16",
        "model.latent_dim=4",
        "data.image_size=32",
        "data.batch_size=1",
    ]
    words += ["optim.updates=2", "log.val_every=2", "log.every=1", "schedule=constant"]
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3", "trainer.precision=32-true"]
    done = subprocess.run(
        [python, "-m", "torch.distributed.run", "--nproc-per-node=3", "--standalone", str(ROOT / "train.py"),
         *words, *ranks, "data=folder", f"data.root={photos}", f"data.val_count={held_out}", "loss=l1",
         f"run.dir={run}"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert metrics["images"] == held_out and metrics["tokens"] == held_out * 16
