"""``trainer=ddp``: each gradient is sent once an update, small tensors together; parts that change are known."""

import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from vistok.losses import Adversary, PatchGAN
from vistok.quantizers import MultiScaleQuantizer, VectorQuantizer
from vistok.training.data_parallel import is_steady
from vistok.training.module import LitTokenizer
from vistok.training.schedules import Schedule

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import sys
from collections import Counter
from datetime import timedelta
from functools import partial
from unittest.mock import patch

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder, HierarchicalEncoder
from vistok.data import sample
from vistok.losses import R1, Adversary, LeCam
from vistok.quantizers import VectorQuantizer
from vistok.training.data_parallel import ReplicatedStrategy
from vistok.training.module import LitTokenizer
from vistok.training.schedules import Schedule

torch.set_num_threads(1)
torch.backends.mkldnn.enabled = False
world, output = int(sys.argv[1]), sys.argv[2]
SIZE = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": (), "dim": 4, "norm_groups": 4}


class Alternating(CNNEncoder):
    '''Passes one of two convolutions, in turn: a different set of parameters in every batch.'''

    def __init__(self):
        super().__init__(**SIZE)
        self.turns, self.turn = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2)), 0

    def forward(self, images):
        self.turn = 1 - self.turn
        return self.turns[self.turn](super().forward(images))


def encoder(name):
    if name == "unused":
        return HierarchicalEncoder(32, (1, 1, 1), 1, (), 4)
    if name == "changing":
        return Alternating()
    return CNNEncoder(**SIZE)


counts, results = Counter(), {}


def hook(state, bucket):
    counts["gradients"] += bucket.buffer().numel()
    with patch.object(dist, "all_reduce", all_reduce):
        return allreduce_hook(None, bucket)


def counted(tensor, *arguments, **options):
    counts["all-reduces"] += 1
    return all_reduce(tensor, *arguments, **options)


class Hooked(pl.Callback):
    def on_train_start(self, trainer, lit):
        for reducer in lit.reducers if name != "compressed" else ():
            reducer.register_comm_hook(None, hook)

    def on_train_batch_start(self, trainer, lit, batch, batch_idx):
        if lit.updates == 3 and not lit.batches % lit.accumulate:
            counts.clear()


all_reduce = dist.all_reduce
for name in sys.argv[3].split(","):
    pl.seed_everything(0, verbose=False)
    head = VectorQuantizer(16, 4, ema_decay=0.9, restart=0.0, kmeans_updates=1)
    tokenizer = Tokenizer(encoder(name), head, CNNDecoder(**SIZE))
    if name == "declared":
        tokenizer.encoder = Alternating()
        tokenizer.encoder.steady_gradients = True
    judge = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 4, 2, 1))
    regularizers = {"r1": R1(every=2), "lecam": LeCam(decay=0.5)}
    weights = {"l1": 1.0, "commitment": 0.25, "adversarial": 0.1, "discriminator": 1.0, "r1": 1.0, "lecam": 0.1}
    lit = LitTokenizer(
        tokenizer, {"l1": nn.L1Loss()}, weights, partial(torch.optim.SGD, lr=0.01), Schedule(4), clip=1.0,
        adversary=Adversary(judge, start=1, adaptive=True, regularizers=regularizers),
        accumulate=2 if name == "accumulated" else 1,
    )
    strategy = ReplicatedStrategy(timedelta(minutes=2), compress=name == "compressed") if world > 1 else "auto"
    trainer = pl.Trainer(
        accelerator="cpu", devices=world, strategy=strategy, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
        log_every_n_steps=100, use_distributed_sampler=False, callbacks=[Hooked()],
    )
    with patch.object(dist, "all_reduce", counted):
        trainer.fit(lit, datamodule=sample(image_size=32, batch_size=8 // world))
    trained = sum(p.numel() for own in lit.trained for p in own)
    results[name] = lit.state_dict(), dict(counts), trained
if trainer.is_global_zero:
    torch.save(results, output)
"""


def run(python, tmp_path, names, world):
    program, output = tmp_path / "program.py", tmp_path / f"{world}.pt"
    program.write_text(PROGRAM)
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={world}", "--standalone"] if world > 1 else []
    return output, subprocess.run(
        [python, *launcher, str(program), str(world), str(output), ",".join(names)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def learn(*arguments):
    output, done = run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(output, weights_only=False)


@pytest.mark.slow
def test_each_gradient_is_sent_once_and_small_tensors_together(python, tmp_path):
    """An adversary that starts, R1 in every other update, several batches, unused and changing parameters; bfloat16."""
    names = ["plain", "accumulated", "unused", "changing"]
    alone, both = learn(python, tmp_path, names, 1), learn(python, tmp_path, [*names, "compressed"], 2)
    compressed = both.pop("compressed")[0]
    for name, (state, counts, trained) in both.items():
        for key, tensor in alone[name][0].items():
            torch.testing.assert_close(state[key], tensor, rtol=1e-4, atol=5e-5, msg=f"{name}, {key}")
        assert counts["gradients"] == trained
    # In each batch the gradients of the last layer and LeCam's means; then all else. No codeword is dead.
    assert both["plain"][1]["all-reduces"] == 2 + 1 and both["accumulated"][1]["all-reduces"] == 2 * 2 + 1
    same = [torch.equal(compressed[key], both["plain"][0][key]) for key in compressed]
    assert not all(same)
    for key, tensor in compressed.items():
        torch.testing.assert_close(tensor, both["plain"][0][key], rtol=0.05, atol=1e-2, msg=key)


@pytest.mark.slow
def test_parts_that_change_though_they_declared_otherwise_stop_the_run(python, tmp_path):
    _, done = run(python, tmp_path, ["declared"], 2)
    assert done.returncode and "trainer.strategy.find_unused_parameters=true searches" in done.stdout + done.stderr


class Strange(nn.Conv2d):
    """A stranger's discriminator."""


def lit(tokenizer, judge):
    weights = {"l1": 1.0, "commitment": 0.25, "codebook": 1.0, "adversarial": 1.0, "discriminator": 1.0}
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return LitTokenizer(tokenizer, {"l1": nn.L1Loss()}, weights, optimizer, Schedule(4), adversary=Adversary(judge))


def test_parts_that_are_known_to_be_steady(make_tokenizer):
    tokenizer, judge = make_tokenizer(), PatchGAN(channels=4, num_layers=1)
    assert is_steady(lit(tokenizer, judge))
    assert not is_steady(lit(tokenizer, Strange(3, 1, 3)))
    declared = Strange(3, 1, 3)
    declared.steady_gradients = True
    assert is_steady(lit(tokenizer, declared))
    tokenizer.decoder.conv_out.steady_gradients = False
    assert not is_steady(lit(tokenizer, judge))
    assert is_steady(lit(tokenizer.requires_grad_(False), judge))  # none of its gradients matters


def test_scales_of_other_image_sizes_use_other_convolutions():
    head = VectorQuantizer(8, 4)
    assert not MultiScaleQuantizer(head, "var").steady_gradients
    assert MultiScaleQuantizer(head, [1, 2, 4]).steady_gradients and MultiScaleQuantizer(head, phi=0).steady_gradients
