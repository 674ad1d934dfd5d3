"""Our training step on a GPU against the same networks in a plain eager loop like LlamaGen's.

    python benchmarks/step_gpu.py [--gate] [--batch 16] [--seconds 120] [--trace FILE]

LlamaGen VQ-16 with its losses on random images of 256 pixels; the networks and both loops are those of ``step.py``.
Each variant has a process and a time limit of its own. Times are medians of 10 steps after 3; a step ends when the GPU
is done. Convolutions may use TF32 and matrix products may not, as torch's defaults are. LPIPS has random weights.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from measure import Claims, line, table
from step import VARIANTS, plain

from vistok import speed
from vistok.training.cost import Step

WARM, TIMED = 3, 10
TARGETS = {"ours fast": 1.5}  # times the images/s of the plain loop in bfloat16, as LlamaGen trains
OURS = {
    "ours exact": {},
    "ours fast": {"channels_last": True, "cudnn_benchmark": True},  # with fused group norms
    "ours fast, cuDNN untuned": {"channels_last": True},
    "ours fast, channels first": {"cudnn_benchmark": True},
    "ours fast, compiled": {"channels_last": True, "cudnn_benchmark": True, "compile": "default"},
}


def measure(variant: str, batch: int, size: int) -> dict:
    """Milliseconds of a step and of encoding and decoding a batch, and MiB at the peak of a step."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mixed = variant not in ("plain float32", "ours exact")
    if variant in OURS:
        from step import build

        lit = build().to(device)
        speed.prepare(*lit.networks, **OURS[variant])
        step = Step(lit, gpu=False, mixed=mixed)
    else:
        lit, step = plain(mixed, device)
    images = torch.rand(batch, 3, size, size, device=device) * 2 - 1
    found = {"step": median(lambda: step(images))}
    found["peak"] = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    tokenizer = lit.tokenizer.eval()
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=mixed):
        codes = tokenizer.tokenize(images)
        found["encode"] = median(lambda: tokenizer.tokenize(images))
        found["decode"] = median(lambda: tokenizer.detokenize(codes))
    return found


def median(run) -> float:
    times = []
    for _ in range(WARM + TIMED):
        finish()
        began = time.perf_counter()
        run()
        finish()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[WARM:])


def finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def trace(file: Path, batch: int, size: int, steps: int = 5) -> None:
    """Profile so many fast steps: kernels by their time on the GPU."""
    from step import build

    lit = build().to("cuda")
    step, images = Step(lit, gpu=False, mixed=True), torch.rand(batch, 3, size, size, device="cuda") * 2 - 1
    for _ in range(WARM):
        step(images)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(steps):
            step(images)
        torch.cuda.synchronize()
    events = profiler.key_averages()
    lines = [events.table(sort_by="self_device_time_total", row_limit=25, max_name_column_width=70)]
    reads = sum(event.count for event in events if event.key == "aten::_local_scalar_dense")
    lines.append(f"{steps} steps of {batch} images; the host read {reads} numbers from tensors")
    file.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the training step on a GPU.")
    parser.add_argument("--gate", action="store_true", help="end with status 1 if a target is not reached")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=120, help="that each variant may take")
    parser.add_argument("--variants", nargs="*", help="some of the variants")
    parser.add_argument("--trace", type=Path, help="profile ours fast instead, into this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.worker, arguments.batch, arguments.size)))
        return
    if arguments.trace:
        trace(arguments.trace, arguments.batch, arguments.size)
        return
    if torch.cuda.is_available():
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batches of {arguments.batch}", flush=True)
    table(["", "step, images/s", "encode, images/s", "decode, images/s", "peak, MiB"])
    found, claims = {}, Claims()
    for variant in arguments.variants or dict.fromkeys([*VARIANTS, *OURS]):
        command = [sys.executable, __file__, "--worker", variant]
        command += ["--batch", str(arguments.batch), "--size", str(arguments.size)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.seconds)
        except subprocess.TimeoutExpired:
            line([variant, f"not in {arguments.seconds:g} s"])
            continue
        if done.returncode:
            line([variant, "failed"])
            sys.stderr.write(done.stderr[-3000:])
            continue
        found[variant] = times = json.loads(done.stdout.splitlines()[-1])
        rates = [round(1000 * arguments.batch / times[what], 1) for what in ("step", "encode", "decode")]
        line([variant, *map(str, rates), f"{times['peak']:,.0f}"])
    for variant, target in TARGETS.items():
        for base in ("plain float32", "plain bfloat16"):
            if variant in found and base in found:
                ratio = found[base]["step"] / found[variant]["step"]
                claims.at_least(f"{variant}, times the images/s of {base}", ratio, target)
    claims.finish(arguments.gate)


if __name__ == "__main__":
    main()
