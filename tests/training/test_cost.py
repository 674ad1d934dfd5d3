"""The estimate of a run's needs: hand-worked numbers, what is linear, and the command."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from vistok.losses import Adversary, PatchGAN
from vistok.quantizers import VectorQuantizer
from vistok.tokenizer import Tokenizer
from vistok.training import run as training_run
from vistok.training.cost import CONTEXT, GIB, LARGE, SLACK, Estimate, Float32AsOnCUDA, LiveMemory, estimate
from vistok.training.module import LitTokenizer
from vistok.training.schedules import Schedule

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)


class Convolution(nn.Conv2d):
    """An encoder or a decoder of one layer."""

    factor = 1

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 3, padding=1)
        self.dim = max(inputs, outputs)

    @property
    def last_layer(self):
        return self.weight


def tiny(ema=None, **arguments):
    """3 → 8 channels, 16 codewords, 8 → 3 channels."""
    tokenizer = Tokenizer(Convolution(3, 8), VectorQuantizer(16, 8, ema_decay=ema), Convolution(8, 3))
    weights = {"l1": 1.0, "commitment": 0.25} | ({} if ema else {"codebook": 1.0})
    weights |= {"adversarial": 1.0, "discriminator": 1.0} if "adversary" in arguments else {}
    return LitTokenizer(tokenizer, {"l1": nn.L1Loss()}, weights, ADAM, Schedule(updates=10), **arguments)


@pytest.fixture(scope="module")
def of_tiny():
    return estimate(tiny, image_size=32, batch=4, gpu=False, precision="32-true")


def test_parameters_by_hand(of_tiny):
    assert of_tiny.parameters == {"encoder": (224, 224, 0), "quantizer": (128, 128, 0), "decoder": (219, 219, 0)}


def test_flops_by_hand(of_tiny):
    positions, convolution = 32 * 32, 2 * 9 * 3 * 8
    assert of_tiny.flops["image to codes"] == positions * (convolution + 2 * 8 * 16)
    assert of_tiny.flops["codes to image"] == positions * convolution
    # The encoder's convolution gives a gradient to its weight, the decoder's to its input too.
    assert of_tiny.flops["a training update"] == positions * (2 * convolution + 2 * 8 * 16 + 3 * convolution)


def test_what_stays_by_hand(of_tiny):
    """Adam in float32 holds weight, gradient and two averages of each parameter, and a count for each tensor."""
    assert of_tiny.memory == {"weights": 4 * 571, "gradients": 4 * 571, "optimizer": 8 * 571 + 4 * 5}


def test_buckets_by_hand(of_tiny):
    """DDP's buckets hold all gradients from the first update on; several batches have gradients of their own too."""

    def with_ddp(accumulate):
        made = functools.partial(tiny, accumulate=accumulate)
        alone, one_of_several = (estimate(made, 32, 4, False, "32-true", ddp) for ddp in (False, True))
        return one_of_several.memory, one_of_several.peak - alone.peak

    memory, more = with_ddp(accumulate=1)
    assert memory == {**{k: v for k, v in of_tiny.memory.items() if k != "gradients"}, "buckets of gradients": 4 * 571}
    assert more == 4 * (571 - 219)  # the peak is in the decoder's backward pass: its own gradients are there already
    memory, more = with_ddp(accumulate=2)
    assert memory == {**of_tiny.memory, "buckets of gradients": 4 * 571}
    assert more == 4 * (571 - 219)  # those of the decoder have moved to the buckets


def test_shards_by_hand(of_tiny):
    """Encoder and decoder but for its last weight are sharded, whole for computations; so is what belongs to them."""
    sharded = 224 + 3
    quarter = estimate(tiny, 32, 4, False, "32-true", shards=4)
    saved = {"weights": 1, "gradients": 1, "optimizer": 2}
    for name, copies in saved.items():
        assert of_tiny.memory[name] - quarter.memory[name] == copies * 4 * sharded * 3 / 4
    assert of_tiny.peak - quarter.peak == 2 * 4 * sharded * 3 / 4 - 4 * sharded / 4  # the moments, less its shard


@pytest.mark.parametrize("words, found", [
    ([], (False, 1)),
    (["trainer=ddp"], (True, 1)),
    (["trainer.strategy=ddp_find_unused_parameters_true"], (True, 1)),
    (["trainer=fsdp", "trainer.devices=4", "trainer.num_nodes=2"], (False, 8)),
])  # fmt: skip
def test_processes_of_a_config(compose, words, found):
    assert training_run._processes(compose("train", *words)) == found


def test_shards_need_a_number(compose):
    with pytest.raises(ValueError, match="trainer.devices=-1: an estimate with trainer=fsdp needs the number"):
        training_run.estimate(compose("train", *SMALL, "trainer=fsdp"))


def test_the_peak_lies_between_what_must_be_there_and_a_generous_count(of_tiny):
    # Image, reconstruction, latent and codewords are needed for the backward pass.
    needed = 4 * 32 * 32 * (3 + 3 + 8 + 8)
    assert needed < of_tiny.per_image < 4 * needed
    assert of_tiny.peak > sum(of_tiny.memory.values()) - of_tiny.memory["gradients"] + 4 * needed


def test_large_batches_lie_on_the_line(of_tiny):
    for batch in (48, 200):
        run = estimate(tiny, 32, batch, gpu=False, precision="32-true")
        assert run.peak == pytest.approx(of_tiny.peak_of(batch), rel=0.01) and batch not in LARGE


def test_the_batch_that_fits():
    estimated = Estimate({}, {}, {}, batch=4, peak=0, least=2 * GIB, fixed=1 * GIB, per_image=0.5 * GIB)
    sizes = [estimated.fitting(gib * GIB) for gib in range(1, 60)]
    assert sizes == sorted(sizes) and sizes[0] == 0
    room = 40 * GIB * (1 - SLACK) - CONTEXT
    fitting = estimated.fitting(40 * GIB)
    assert fitting == 72 and estimated.peak_of(fitting) <= room < estimated.peak_of(fitting + 1)
    assert estimated.peak_of(1) == 2 * GIB and estimated.fitting(3 * GIB) == 0


def test_live_memory_counts_storages_until_they_are_freed():
    with LiveMemory() as live:
        x = torch.zeros(256)
        y = x.view(16, 16)  # no storage of its own
        z = y * 2
        assert live.now == 2048
        del x
        assert live.now == 2048  # the view holds it
        del y
        assert live.now == 1024
        assert (z.sum() + 1).item() == 1  # a number that is read
        del z
        assert live.now == 0 and live.peak == 2048


def test_live_memory_sees_what_the_backward_pass_keeps():
    weight = nn.Parameter(torch.ones(256))
    with LiveMemory() as live:
        out = (weight.exp() * 2).sum()  # exp keeps its result
        assert live.now == 1024 + 4
        out.backward()
        del out
        assert live.now == 1024  # the gradient


def test_float32_as_on_cuda():
    """The same types that autocast gives on fake tensors of a GPU."""

    def network(x, weight):
        h = F.conv2d(x, weight, padding=1)
        outputs = [h, F.group_norm(h, 2), F.silu(h), F.interpolate(h, scale_factor=2), h.softmax(1), h.sum()]
        return [out.dtype for out in [*outputs, F.layer_norm(h, (8,)), h**2, h.exp(), F.l1_loss(h, h), h.relu()]]

    with FakeTensorMode():
        with torch.autocast("cpu", torch.bfloat16), Float32AsOnCUDA():
            ours = network(torch.empty(1, 3, 8, 8), torch.empty(4, 3, 3, 3))
        gpu = torch.empty(1, 3, 8, 8, device="cuda"), torch.empty(4, 3, 3, 3, device="cuda")
        before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)  # torch.autocast would refuse without a GPU
        try:
            theirs = network(*gpu)
        finally:
            torch.set_autocast_enabled("cuda", before[0])
            torch.set_autocast_dtype("cuda", before[1])
    assert ours == theirs and set(ours) == {torch.bfloat16, torch.float32}


def test_attention_flops():
    """Two products of n × n × d: 4 n² d."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        q = torch.empty(1, 2, 64, 16)
        F.scaled_dot_product_attention(q, q, q)
    assert counter.get_total_flops() == 2 * 4 * 64**2 * 16


SMALL = [
    "backbone=cnn_f8_small",
    "backbone.encoder.channels=8",
    "model.codebook_size=16",
    "model.latent_dim=4",
    "data.image_size=32",
]


def test_the_command_prints_and_trains_nothing(compose, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    words = [
        "loss=vqgan",
        "optim.ema_decay=0.9",
        "data=folder",
        "trainer=ddp",
        "run.gpu_memory=4",
    ]  # neither data nor a GPU
    training_run.estimate(compose("train", *SMALL, *words))
    printed = capsys.readouterr().out
    assert "4 GiB hold data.batch_size=" in printed and "averaged weights" in printed
    assert "buckets of gradients" in printed and "a process of several with DDP" in printed
    lpips = next(line for line in printed.splitlines() if "loss lpips" in line)
    assert "14,716,160" in lpips and "not trained" in lpips
    assert not list(tmp_path.iterdir())


def run(gpu=True, precision="32-true", **arguments):
    return estimate(lambda: tiny(**arguments), 32, batch=8, gpu=gpu, precision=precision)


def test_what_a_run_adds():
    """An average of the weights is a copy of them; a discriminator has to be run, and accumulation keeps gradients."""
    plain = run()
    averaged = run(ema_decay=0.9)
    assert averaged.memory == {**plain.memory, "weights": 2 * plain.memory["weights"]}
    assert averaged.parameters["averaged weights"] == (571, 0, 0)
    assert run(ema=0.99).parameters["quantizer"] == (0, 0, 128 + 128 + 16)  # codewords, their sums and counts
    adversary = Adversary(PatchGAN(channels=8, num_layers=2), start=5, adaptive=True)
    judged = run(adversary=adversary)
    assert judged.peak > plain.peak and judged.flops["a training update"] > plain.flops["a training update"]
    late = run(adversary=Adversary(PatchGAN(channels=8, num_layers=2), start=10))  # after the run's last update
    assert late.flops == plain.flops
    # Later batches of an update begin with the gradients of the first.
    assert 0 < run(accumulate=4).peak - plain.peak <= plain.memory["gradients"]


def test_bfloat16_keeps_less():
    """Of a discriminator, where most of the activations are, about half."""

    def per_image(precision):
        return run(adversary=Adversary(PatchGAN(channels=64, num_layers=2)), precision=precision).per_image

    assert 0.4 < per_image("bf16-mixed") / per_image("32-true") < 0.8


@pytest.mark.parametrize("wrong", ["abc", "0", "-3", "true"])
def test_refuses_a_memory_that_is_none(compose, wrong):
    with pytest.raises(ValueError, match="gpu_memory is the memory of a GPU in GiB"):
        training_run.estimate(compose("train", f"run.gpu_memory={wrong}"))


def test_refuses_what_training_would_refuse(compose):
    with pytest.raises(ValueError, match="data.image_size=36 is not a multiple"):
        training_run.estimate(compose("train", "backbone=cnn_f8_small", "run.gpu_memory=8", "data.image_size=36"))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        training_run.estimate(compose("train", "run.gpu_memory=8", "data.batch_size=0"))
    with pytest.raises(ValueError, match="precision=64-true cannot be estimated"):
        training_run.estimate(compose("train", "run.gpu_memory=8", "trainer.precision=64-true"))
