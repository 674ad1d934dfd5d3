"""Faster networks: the same weights, about the same numbers, and what is refused."""

import functools
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.profiler import ProfilerActivity, profile

import vistok
from vistok import speed
from vistok.backbones import ViTEncoder
from vistok.images.ranges import to_uint8
from vistok.losses import R1, Adversary, PatchGAN
from vistok.metrics import psnr
from vistok.training import run as training_run
from vistok.training.cost import Step
from vistok.training.module import LitTokenizer
from vistok.training.schedules import Schedule


@pytest.fixture(autouse=True)
def pages(monkeypatch):
    """Other tests measure this process's memory."""
    monkeypatch.setattr(speed, "keep_freed_pages", lambda: True)


def test_fast_changes_formats_and_little_else(make_tokenizer):
    tokenizer = make_tokenizer().eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    codes = tokenizer.tokenize(images)
    exact = tokenizer.detokenize(codes)
    with speed.fast(tokenizer):
        fast_codes, decoded = tokenizer.tokenize(images), tokenizer.detokenize(codes)
        assert tokenizer.quantize(images).latent.dtype == torch.float32  # the head's own
    assert all(torch.equal(tensor, before[name]) for name, tensor in tokenizer.state_dict().items())
    assert tokenizer.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert decoded.dtype == torch.bfloat16 and fast_codes.dtype == torch.int64
    assert (fast_codes == codes).float().mean() > 0.9
    assert psnr(to_uint8(decoded), to_uint8(exact)).min() > 40
    assert not torch.is_autocast_enabled("cpu")


def test_a_fast_run_is_saved_and_read_as_any_other(train, tmp_path):
    run = train(tmp_path / "run", "speed=fast", "loss=vqgan", "loss.image_losses.lpips.net=alex")
    weights = load_file(run / "tokenizer" / "model.safetensors")
    assert weights and all(tensor.dtype in (torch.float32, torch.int64) for tensor in weights.values())
    assert json.loads((run / "metrics.json").read_text())["metrics"]["psnr"] > 0
    assert vistok.load(run / "tokenizer").tokenize(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 4, 4)
    train(tmp_path / "run", "speed=fast", f"run.resume={run}/checkpoints/last.ckpt", "optim.updates=3", "loss=vqgan",
          "loss.image_losses.lpips.net=alex")  # fmt: skip


@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_float16_is_refused_with_the_reason(train, tmp_path, precision):
    with pytest.raises(ValueError, match=rf"trainer.precision={precision} .* float16 ends at 65,504"):
        train(tmp_path / "run", f"trainer.precision={precision}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words, said", [(["speed=fast"], True), ([], False)])
def test_a_cpu_that_emulates_bfloat16_is_named(compose, monkeypatch, capsys, words, said):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    training_run._check_hardware(compose("train", *words))
    assert ("no bfloat16 instructions" in capsys.readouterr().out) == said


def test_modes_of_compile(make_tokenizer, compose):
    with pytest.raises(ValueError, match="speed.compile must be null or one of default, reduce-overhead"):
        speed.prepare(make_tokenizer(), compile="fastest")
    _, lit = training_run.build(
        compose("train", "trainer=debug", "backbone=cnn_f8_small", "backbone.encoder.channels=8")
    )
    names = set(lit.state_dict())
    speed.prepare(*lit.networks, channels_last=True, compile="default")
    assert set(lit.state_dict()) == names
    tokenizer = lit.tokenizer
    compiled = [part for part in lit.modules() if part._compiled_call_impl is not None]
    assert {"ResnetBlock"} <= {type(part).__name__ for part in compiled} <= {"ResnetBlock", "Downsample", "Upsample"}
    assert not any(weight is tokenizer.decoder.last_layer for part in compiled for weight in part.parameters())
    inside = {*tokenizer.encoder.modules(), *tokenizer.decoder.modules()}
    assert set(compiled) < inside and tokenizer.encoder not in compiled  # neither losses nor discriminator


def test_a_transformer_is_compiled_by_its_blocks():
    blocks = speed.blocks_of(ViTEncoder(dim=16, depth=3, num_heads=2, head_dim=8))
    assert [type(block).__name__ for block in blocks] == ["Block"] * 3


class Compiled:
    """Blocks compiled on the CPU without the code generator, which takes a minute: graphs are traced, and counted."""

    def __init__(self, monkeypatch):
        from torch._dynamo.backends.debugging import aot_eager  # slow to import

        self.graphs, self.aot_eager = 0, aot_eager
        as_torch = nn.Module.compile
        patched = lambda part, mode, dynamic: as_torch(part, backend=self.backend, dynamic=dynamic)  # noqa: E731
        monkeypatch.setattr(nn.Module, "compile", patched)
        torch._dynamo.reset()

    def backend(self, graph, inputs):
        self.graphs += 1
        return self.aot_eager(graph, inputs)


def updated(make_tokenizer, compiled):
    """Weights, and convolutions' backward passes, of one, after two updates with adaptive weight and R1."""
    torch.manual_seed(1)
    adversary = Adversary(PatchGAN(channels=4, num_layers=1), adaptive=True, regularizers={"r1": R1(every=1)})
    weights = {"l1": 1.0, "commitment": 0.25, "codebook": 1.0, "adversarial": 0.3, "discriminator": 0.7, "r1": 1.0}
    optimizer = functools.partial(torch.optim.SGD, lr=0.1)
    lit = LitTokenizer(make_tokenizer(), {"l1": nn.L1Loss()}, weights, optimizer, Schedule(9), adversary=adversary)
    step = Step(lit, gpu=False, mixed=False)
    speed.prepare(*lit.networks, compile="default" if compiled else None)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    step(images)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:  # of the second update: the first one traces
        step(images.flip(3))
    passes = sum(event.name == "aten::convolution_backward" for event in profiled.events())
    return lit.state_dict(), passes


def test_compiled_updates_are_those_of_others(make_tokenizer, monkeypatch):
    """R1 needs second derivatives, which compiled graphs have not; the adaptive weight needs those of one layer."""
    plain, passes = updated(make_tokenizer, compiled=False)
    counted = Compiled(monkeypatch)
    ours, compiled_passes = updated(make_tokenizer, compiled=True)
    assert counted.graphs and compiled_passes == passes > 0 and set(ours) == set(plain)
    for name, weight in plain.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=1e-6, msg=name)


def test_a_graph_for_each_shape(make_tokenizer, monkeypatch):
    counted, tokenizer = Compiled(monkeypatch), make_tokenizer()
    speed.prepare(tokenizer.encoder, compile="default")
    graphs = []
    for size in (32, 64, 32, 64):
        tokenizer.encoder(torch.zeros(1, 3, size, size))
        graphs.append(counted.graphs)
    assert 0 < graphs[0] < graphs[1] == 2 * graphs[0] and graphs[1:] == [graphs[1]] * 3


def test_two_graphs_for_all_sizes_of_buckets(make_tokenizer, monkeypatch):
    counted, tokenizer = Compiled(monkeypatch), make_tokenizer()
    speed.prepare(tokenizer.encoder, compile="default", several_sizes=True)
    graphs = []
    for height, width in ((32, 128), (48, 80), (96, 40)):
        tokenizer.encoder(torch.zeros(1, 3, height, width))
        graphs.append(counted.graphs)
    assert 0 < graphs[0] < graphs[1] == graphs[2] <= 2 * graphs[0]


def test_settings_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    before = torch.get_float32_matmul_precision()
    try:
        speed.prepare(cudnn_benchmark=True, matmul_precision="high")
        assert torch.backends.cudnn.benchmark and torch.get_float32_matmul_precision() == "high"
        speed.prepare()  # as speed.fast does: nothing is given, nothing changes
        assert torch.backends.cudnn.benchmark and torch.get_float32_matmul_precision() == "high"
        speed.prepare(cudnn_benchmark=False, matmul_precision="highest")
        assert not torch.backends.cudnn.benchmark and torch.get_float32_matmul_precision() == "highest"
        with pytest.raises(ValueError, match="speed.matmul_precision must be one of highest, high, medium, not 'low'"):
            speed.prepare(matmul_precision="low")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("words, accelerator, expected", [
    (["speed=fast", "speed.matmul_precision=high"], "cpu", (None, None)),
    (["speed=fast", "speed.matmul_precision=high"], "gpu", (True, "high")),
    (["speed=exact"], "gpu", (False, "highest")),
])  # fmt: skip
def test_only_runs_on_a_gpu_change_its_settings(compose, monkeypatch, tmp_path, words, accelerator, expected):
    class Prepared(Exception):
        pass

    def prepare(*networks, cudnn_benchmark, matmul_precision, **others):
        raise Prepared(cudnn_benchmark, matmul_precision)

    monkeypatch.setattr(speed, "prepare", prepare)
    monkeypatch.setattr(training_run, "_check_hardware", lambda config: None)
    config = compose("train", "trainer=debug", f"run.dir={tmp_path}/run", *words, f"trainer.accelerator={accelerator}")
    with pytest.raises(Prepared) as raised:
        training_run.train(config, [])
    assert raised.value.args == expected


@pytest.mark.parametrize("words, precision", [
    ([], "32-true"),
    (["speed=fast"], "bf16-mixed"),
    (["trainer=gpu"], "bf16-mixed"),
    (["trainer=gpu", "speed=exact"], "32-true"),
    (["trainer=ddp"], "bf16-mixed"),
])  # fmt: skip
def test_the_switch_sets_the_precision(compose, words, precision):
    assert compose("train", *words).trainer.precision == precision


FAULTS = """
import resource, sys
import torch
from vistok.speed import keep_freed_pages
print(keep_freed_pages() if sys.argv[1] == "kept" else True)
for i in range(20):
    torch.ones(2**24)
    if i == 2:
        first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_kept_pages_are_not_faulted_in_again():
    def faults(how):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        kept, count = done.stdout.split()
        assert kept == "True"
        return int(count)

    # Of 17 blocks of 64 MiB. Some kernels fault a few kept ones in again (5 seen), all of the returned ones always.
    assert faults("kept") < faults("returned") / 2
