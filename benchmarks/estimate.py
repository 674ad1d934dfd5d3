"""The estimated peak memory of a training update beside the measured one, on the CPU in float32: a table.

    python benchmarks/estimate.py

Updates are measured in a process of their own, after one of a single image that makes the optimizers' states, in two
ways: the sum of what torch's allocator has handed out (torch.profiler), and the memory that Linux gave the process
(VmHWM less VmRSS before). Both start from the bytes of weights and optimizer states.
"""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import hydra
import torch
from measure import MIB, allocated
from omegaconf import DictConfig

from vistok.training import run
from vistok.training.cost import Step, estimate, size_of

ROOT = Path(__file__).parent.parent
PIXELS = 128
BATCHES = (1, 4)
SMALL = ["backbone=cnn_f8_small"]
NARROW = ["backbone=cnn_f16", "backbone.encoder.channels=32"]
RUNS = {
    "small CNN, L1": [*SMALL, "loss=l1"],
    "small CNN, L2 and GAN": [*SMALL, "loss=l2_gan"],
    "VQGAN of 32 channels, L1": [*NARROW, "loss=l1", "quantizer=vq"],
    "VQGAN of 32 channels, L1, LPIPS and GAN": [*NARROW, "loss=vqgan", "quantizer=vq", "optim.ema_decay=0.999"],
}


def config_of(name: str) -> DictConfig:
    words = [*RUNS[name], "trainer=debug", f"data.image_size={PIXELS}"]
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return hydra.compose("train", overrides=words)


def resident(step: Step, images: torch.Tensor) -> int:
    """Rise of the process's memory during an update."""
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back
    before = _status("VmRSS")
    step(images)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def measure(name: str) -> list[dict[str, int]]:
    """Bytes at the peak of an update with each batch, by way of measuring."""
    torch.manual_seed(0)
    lit = run.build_module(config_of(name))
    step = Step(lit, gpu=False, mixed=False)
    step(torch.rand(1, 3, PIXELS, PIXELS))
    states = [t for optimizer in step.optimizers for state in optimizer.state.values() for t in state.values()]
    resting = size_of([*lit.parameters(), *lit.buffers(), *states])
    measured = []
    for batch in BATCHES:
        images = torch.rand(batch, 3, PIXELS, PIXELS)
        base = resting + size_of([images])
        update = partial(step, images)
        measured.append({"resident": base + resident(step, images), "allocated": base + allocated(update)})
    return measured


def rows_of(name: str) -> list[str]:
    config = config_of(name)
    estimated = estimate(lambda: run.build_module(config), PIXELS, BATCHES[-1], gpu=False, precision="32-true")
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed blocks go back to the system at once
    words = [sys.executable, __file__, "measure", name]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    rows = []
    for batch, measured in zip(BATCHES, json.loads(done.stdout.splitlines()[-1]), strict=True):
        peak = {1: estimated.least, estimated.batch: estimated.peak}[batch]
        cells = [f"{size / MIB:,.1f} | {peak / size - 1:+.1%}" for size in measured.values()]
        rows.append(f"| {name} | {batch} | {peak / MIB:,.1f} | {' | '.join(cells)} |")
    return rows


def main() -> None:
    columns = ["run", "batch", "estimate, MiB", "resident", "error", "allocated", "error"]
    sys.stdout.write(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|\n")
    for name in RUNS:
        sys.stdout.write("\n".join(rows_of(name)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        sys.stdout.write(json.dumps(measure(sys.argv[2])) + "\n")
    else:
        main()
