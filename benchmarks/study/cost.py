"""Cost of each head in training: time, memory, parameters and FLOPs of an update, one after the other.

    python benchmarks/study/cost.py [--out runs/study/cost.md]    # on a GPU if there is one
    python benchmarks/study/cost.py --count    # nothing timed

The study's own networks, losses and batch with random images; ``speed=fast`` on a GPU as in ``trainer=gpu``. Time
is the median of 30 updates after 10: on a CPU that of one thread. The peak is that of ``python -m vistok estimate``:
weights, gradients, the optimizer's moments and activations, counted tensor by tensor.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from plan import RUNS, Run
from run import ROOT

from vistok import speed
from vistok.training import run as training_run
from vistok.training.cost import Step, estimate

WARM, TIMED = 10, 30
SHOWN = [run for run in RUNS if run.section in ("heads", "collapse", "backbone") and run.size != "1k"]
NETWORKS = ("encoder", "decoder", "to_latent", "from_latent")


def config_of(run: Run):
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return hydra.compose(
            "train", [*run.words, "run.frozen_weights=random", "run.debug=true", "data=sample", "data.num_workers=0"]
        )


def counted(run: Run) -> dict[str, str]:
    """Parameters, FLOPs and memory, by the names of their columns."""
    config = config_of(run)
    found = estimate(
        lambda: training_run.build_module(config),
        config.data.image_size,
        config.data.batch_size,
        gpu=False,
        precision="32-true",
    )
    sizes = {name: count.parameters for name, count in found.parameters.items()}
    trained = found.parameters["quantizer"].trained if "quantizer" in found.parameters else 0
    return {
        "networks, parameters": f"{sum(sizes[name] for name in NETWORKS if name in sizes):,}",
        "head, trained by gradient": f"{trained:,}",
        "GFLOPs of an image": f"{found.flops['a training update'] / 1e9:.2f}",
        "peak of a batch, MiB": f"{found.peak / 2**20:,.0f}",
    }


def timed(run: Run) -> dict[str, str]:
    """Images/s, and on a GPU the peak that torch's allocator saw."""
    config, gpu = config_of(run), torch.cuda.is_available()
    torch.manual_seed(0)
    lit = training_run.build_module(config).to("cuda" if gpu else "cpu")
    if not gpu:
        torch.set_num_threads(1)
        speed.keep_freed_pages()
    clock = time.perf_counter if gpu else time.process_time
    step = Step(lit, gpu=False, mixed=gpu)
    images = (
        torch.rand(config.data.batch_size, 3, config.data.image_size, config.data.image_size, device=lit.device) * 2 - 1
    )
    seconds = []
    for number in range(WARM + TIMED):
        if gpu:
            if number == WARM:
                torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        began = clock()
        step(images)
        if gpu:
            torch.cuda.synchronize()
        seconds.append(clock() - began)
    found = {"images/s": f"{config.data.batch_size / statistics.median(seconds[WARM:]):.1f}"}
    return found | ({"peak on the GPU, MiB": f"{torch.cuda.max_memory_allocated() / 2**20:,.0f}"} if gpu else {})


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what each head of the study costs.")
    parser.add_argument("--count", action="store_true", help="count parameters, FLOPs and memory, and time nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study" / "cost.md", help="default: %(default)s")
    arguments = parser.parse_args()
    lines = []
    for run in SHOWN:
        cells = {"run": run.name} | counted(run) | ({} if arguments.count else timed(run))
        new = [f"| {' | '.join(cells.values())} |"]
        if not lines:
            new = [f"| {' | '.join(cells)} |", "| --- " * len(cells) + "|", *new]
        lines += new
        sys.stdout.write("\n".join(new) + "\n")
        sys.stdout.flush()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
