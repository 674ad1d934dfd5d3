"""Our training step, and encoding and decoding, against the same networks in a plain eager loop like LlamaGen's.

    python benchmarks/step.py --gate             # LlamaGen VQ-16 on random images of 256 pixels, one by one
    python benchmarks/step.py --scaling FILE.png # a small network's step against batch and image size
    python benchmarks/step.py --trace 20 --size 128    # what our fast steps spend their time on
    python benchmarks/step.py --flops            # the adaptive adversarial weight, counted, nothing timed

CPU time of one thread. Each measurement has a process of its own, since kept pages are a process's; the variants take
turns, and medians are compared. LPIPS has random weights: they cost what pretrained ones do.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hydra
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vistok import speed
from vistok.losses.adversarial import adaptive_weight
from vistok.training import run as training_run
from vistok.training.cost import Step, make_fake
from vistok.training.module import LitTokenizer, parameters_of, weighted_sum

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FAST = {"channels_last": True, "keep_pages": True}
BY_BATCH = [(1, 64), (2, 64), (4, 64), (8, 64), (16, 64)]
BY_SIZE = [(4, 32), (4, 64), (4, 96), (4, 128), (4, 192)]
SCALES = list(dict.fromkeys(BY_BATCH + BY_SIZE))
TARGETS = {"step": 2.0, "encode": 2.0, "decode": 2.0}  # of the default eager float32 over speed=fast


def build(loss: str = "llamagen") -> LitTokenizer:
    """LlamaGen VQ-16 with its losses, the adversary from the first update on."""
    words = [
        "experiment=llamagen_vq16_imagenet256",
        f"loss={loss}",
        "run.frozen_weights=random",
        "run.debug=true",
        "data=sample",
    ]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        lit = training_run.build_module(
            hydra.compose("train", [*words, "optim.adversarial_start=0", "optim.accumulate=1"])
        )
    return lit


def ours(fast: bool) -> tuple[LitTokenizer, Callable[[Tensor], None]]:
    lit = build()
    if fast:
        speed.prepare(*lit.networks, **FAST)
    step = Step(lit, gpu=False, mixed=fast)
    return lit, step


def plain(bf16: bool, device: str = "cpu") -> tuple[LitTokenizer, Callable[[Tensor], None]]:
    """A loop as LlamaGen's (arXiv:2406.06525, code): two Adams with torch's defaults, clipping, nothing else.

    Its quantizer writes the N x K distances, and a softmax entropy of weight 0.
    """
    lit = build().to(device)
    tokenizer, judge, lpips = lit.tokenizer.train(), lit.adversary.train(), lit.image_losses["lpips"]
    table = tokenizer.quantizer.codewords
    networks = [*tokenizer.parameters()]
    generator = torch.optim.Adam(networks, lr=1e-4, betas=(0.9, 0.95))
    discriminator = torch.optim.Adam(judge.parameters(), lr=1e-4, betas=(0.9, 0.95))

    def quantize(z: Tensor) -> tuple[Tensor, Tensor]:
        b, d, h, w = z.shape
        z = F.normalize(z.permute(0, 2, 3, 1), dim=-1)
        flat, codebook = z.reshape(-1, d), F.normalize(table, dim=-1)
        distances = flat.square().sum(1, keepdim=True) + codebook.square().sum(1) - 2 * flat @ codebook.T
        chosen = codebook[distances.argmin(1)].view(z.shape)
        affinity = -distances / 0.01
        p = affinity.softmax(-1)
        entropy = -(p * (affinity + 1e-5).log_softmax(-1)).sum(-1).mean() + (p.mean(0) * (p.mean(0) + 1e-5).log()).sum()
        loss = F.mse_loss(chosen, z.detach()) + 0.25 * F.mse_loss(chosen.detach(), z) + 0.0 * entropy
        return (z + (chosen - z).detach()).permute(0, 3, 1, 2), loss

    def step(images: Tensor) -> None:
        generator.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            latent, vq_loss = quantize(tokenizer.encode(images))
            reconstruction = tokenizer.decode(latent)
            loss = F.mse_loss(reconstruction, images) + lpips(reconstruction, images).mean() + vq_loss
            loss = loss - 0.5 * judge.discriminator(reconstruction).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(networks, 1.0)
        generator.step()
        discriminator.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            real, fake = judge.discriminator(images), judge.discriminator(reconstruction.detach())
            loss = 0.5 * judge.loss(real, fake)
        loss.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        discriminator.step()

    return lit, step


VARIANTS = {
    "plain float32": lambda: plain(bf16=False),
    "plain bfloat16": lambda: plain(bf16=True),
    "ours exact": lambda: ours(fast=False),
    "ours fast": lambda: ours(fast=True),
}


def measure(variant: str, what: str, batch: int, size: int, repeats: int) -> list[float]:
    """CPU seconds for an image, of each repeat but the first; in this process."""
    torch.manual_seed(0)
    lit, step = VARIANTS[variant]()
    tokenizer, images = lit.tokenizer, torch.rand(batch, 3, size, size) * 2 - 1
    if what != "step":
        tokenizer.eval()
        with torch.no_grad():
            codes = tokenizer.tokenize(images)
        bf16 = variant in ("plain bfloat16", "ours fast")

        def step(images: Tensor) -> None:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                tokenizer.tokenize(images) if what == "encode" else tokenizer.detokenize(codes)

    times = []
    for _ in range(repeats + 1):
        started = time.process_time()
        step(images)
        times.append((time.process_time() - started) / batch)
    return times[1:]


def in_own_process(variant: str, what: str, batch: int = 1, size: int = 256, repeats: int = 1) -> list[float]:
    words = ["--worker", variant, "--what", what, "--batch", str(batch), "--size", str(size), "--repeats", str(repeats)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(rounds: int) -> bool:
    """Print the ratios; whether all targets are reached."""
    met = True
    for what, target in TARGETS.items():
        variants = list(VARIANTS) if what == "step" else ["ours exact", "ours fast"]
        times: dict[str, list[float]] = {variant: [] for variant in variants}
        for _ in range(rounds):
            for variant in variants:
                times[variant] += in_own_process(variant, what, repeats=1 if what == "step" else 3)
        medians = {variant: statistics.median(values) for variant, values in times.items()}
        for variant, median in medians.items():
            print(
                f"{what:7} {variant:15} {median:7.2f} s an image ({min(times[variant]):.2f}-{max(times[variant]):.2f})"
            )
        base = "plain float32" if what == "step" else "ours exact"
        ratio = medians[base] / medians["ours fast"]
        met &= ratio >= target
        print(
            f"{what:7} {base} / ours fast = {ratio:.2f}, target {target}: {'' if ratio >= target else 'not '}reached",
            flush=True,
        )
        if what == "step":
            print(f"step    plain float32 / ours exact = {medians[base] / medians['ours exact']:.2f}")
            print(
                f"step    plain bfloat16 / ours fast = {medians['plain bfloat16'] / medians['ours fast']:.2f}",
                flush=True,
            )
    return met


def scaling(path: Path) -> None:
    """The step of the network of ``backbone=cnn_f8_small`` against batch and image size: a table, and a plot of it."""
    steps, times = {}, {}
    for name, fast in (("speed=exact", False), ("speed=fast", True)):
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = hydra.compose("train", ["backbone=cnn_f8_small", "optim.adversarial_start=0"])
            lit = training_run.build_module(config)
        if fast:
            speed.prepare(*lit.networks, channels_last=True)
        steps[name] = Step(lit, gpu=False, mixed=fast)
    for batch, size in SCALES:
        images = torch.rand(batch, 3, size, size) * 2 - 1
        for _ in range(4):
            for name, step in steps.items():
                started = time.process_time()
                step(images)
                times.setdefault((name, batch, size), []).append(time.process_time() - started)
    medians = {key: statistics.median(values[1:]) for key, values in times.items()}
    print("| images | pixels | speed=exact, ms | speed=fast, ms |\n| --- | --- | --- | --- |")
    for batch, size in SCALES:
        cells = (f"{medians[name, batch, size] * 1e3:.0f}" for name in steps)
        print(f"| {batch} | {size} | {' | '.join(cells)} |", flush=True)
    plot(path, medians)


def plot(path: Path, medians: dict[tuple[str, int, int], float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, sides = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for name in dict.fromkeys(name for name, _, _ in medians):
        for axes, scales, at in zip(sides, (BY_BATCH, BY_SIZE), (0, 1), strict=True):
            axes.plot([s[at] for s in scales], [medians[(name, *s)] for s in scales], marker="o", label=name)
    labels = ("images of 64 pixels", "pixels of a side, 4 images")
    for axes, scales, at, label in zip(sides, (BY_BATCH, BY_SIZE), (0, 1), labels, strict=True):
        axes.set(xscale="log", yscale="log", xlabel=label, xticks=[s[at] for s in scales])
        axes.set_xticklabels([s[at] for s in scales])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    ticks = (0.05, 0.1, 0.2, 0.5, 1.0)
    sides[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    sides[0].set_ylabel("seconds of a step")
    sides[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def trace(steps: int, size: int) -> None:
    """Profile our fast step: operations by their own CPU time, and how often the host read a number from a tensor."""
    _, step = VARIANTS["ours fast"]()
    images = torch.rand(1, 3, size, size) * 2 - 1
    step(images)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step(images)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    reads = sum(event.count for event in events if event.key == "aten::_local_scalar_dense")
    print(f"{steps} steps, {total / 1e6 / steps:.2f} s each; the host read {reads} numbers from tensors")
    for event in events[:16]:
        print(f"{event.self_cpu_time_total / total:6.1%} {event.count / steps:7.0f} calls a step  {event.key}")


def flops() -> None:
    """Count a step with the adaptive weight, taken plainly and as we take it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        lit = build("vqgan")
    with FakeTensorMode(allow_non_fake_inputs=True):
        make_fake(lit)
        images = torch.empty(1, 3, 256, 256)
        step = Step(lit, gpu=False, mixed=False)
        counts = []
        for run in (lambda: step(images), lambda: adaptive_plainly(lit, images)):
            with FlopCounterMode(display=False) as counter:
                run()
            counts.append(counter.get_total_flops())
    print(f"GFLOPs of a step for an image: ours {counts[0] / 1e9:.0f}, two backward passes more {counts[1] / 1e9:.0f}")


def adaptive_plainly(lit: LitTokenizer, images: Tensor) -> None:
    """The step as VQGAN's code has it: gradients at the last layer first, then all of the backward pass again."""
    reconstruction, quantized = lit.tokenizer(images)
    image_terms = lit.compare(reconstruction, reconstruction, images)
    lit.adversary.learns(False)
    adversarial = lit.adversary.generator_loss(reconstruction)
    image_loss = weighted_sum(image_terms, lit.loss_weights)
    scale = adaptive_weight(image_loss, adversarial, lit.tokenizer.decoder.last_layer)
    (image_loss + scale * adversarial + weighted_sum(quantized.losses, lit.loss_weights)).backward()
    lit.adversary.learns(True)
    lit.adversary.discriminator_step(reconstruction, images, 0).terms["discriminator"].backward()
    for optimizer in lit.optimizers():
        nn.utils.clip_grad_norm_(parameters_of(optimizer), 1.0)
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", action="store_true", help="exit with 1 if a target is not reached")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scaling", type=Path)
    parser.add_argument("--trace", type=int)
    parser.add_argument("--flops", action="store_true")
    parser.add_argument("--worker", choices=VARIANTS)
    parser.add_argument("--what", choices=TARGETS, default="step")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.worker:
        a = arguments
        print(json.dumps(measure(a.worker, a.what, a.batch, a.size, a.repeats)))
    elif arguments.scaling:
        scaling(arguments.scaling)
    elif arguments.trace:
        trace(arguments.trace, arguments.size)
    elif arguments.flops:
        flops()
    elif not compare(arguments.rounds) and arguments.gate:
        sys.exit(1)


if __name__ == "__main__":
    main()
