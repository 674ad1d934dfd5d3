"""What each head costs in training: time, memory, parameters and FLOPs of an update, one after the other.

    python benchmarks/study/cost.py [--out runs/study/cost.json]    # on a GPU if there is one
    python benchmarks/study/cost.py --count    # parameters and FLOPs alone, nothing timed

The study's own networks, losses and batch with random images; ``speed=fast`` on a GPU as in ``trainer=gpu``. Time
is the median of 30 updates after 10.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from plan import RUNS, Run
from run import ROOT

from vistok import cli, speed
from vistok.estimate import Step, estimate

WARM, TIMED = 10, 30
SHOWN = [run for run in RUNS if run.section in ("heads", "collapse", "backbone") and run.size != "1k"]


def config_of(run: Run):
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return hydra.compose("train", [*run.words, "weights=random", "debug=true", "data=sample", "data.num_workers=0"])


def counted(run: Run) -> dict:
    config = config_of(run)
    found = estimate(lambda: cli.build_module(config), 64, config.batch_size, gpu=False, precision="32-true")
    parameters = {name: count for name, (count, _) in found.parameters.items() if not name.startswith("loss")}
    return {"name": run.name, "parameters": parameters, "gflops": {k: v / 1e9 for k, v in found.flops.items()}}


def timed(run: Run, batch: int | None) -> dict:
    config, gpu = config_of(run), torch.cuda.is_available()
    torch.manual_seed(0)
    lit = cli.build_module(config).to("cuda" if gpu else "cpu")
    speed.prepare(*lit.networks, channels_last=gpu)
    step, batch = Step(lit, gpu=False, mixed=gpu), batch or config.batch_size
    images = torch.rand(batch, 3, config.image_size, config.image_size, device=lit.device) * 2 - 1
    seconds = []
    for number in range(WARM + TIMED):
        if gpu:
            if number == WARM:
                torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        began = time.perf_counter() if gpu else time.process_time()
        step(images)
        if gpu:
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() if gpu else time.process_time()) - began)
    median = statistics.median(seconds[WARM:])
    return {
        "name": run.name,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "batch": batch,
        "milliseconds": 1000 * median,
        "images_per_second": batch / median,
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if gpu else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what each head of the study costs.")
    parser.add_argument("--count", action="store_true", help="count parameters and FLOPs, and time nothing")
    parser.add_argument("--batch", type=int, help="images in a batch, in place of the study's")
    parser.add_argument("--out", type=Path, help="where the numbers go (default: runs/study/cost.json or counts.json)")
    arguments = parser.parse_args()
    out = arguments.out or ROOT / "runs" / "study" / ("counts.json" if arguments.count else "cost.json")
    rows = []
    for run in SHOWN:
        rows.append(counted(run) if arguments.count else timed(run, arguments.batch))
        sys.stdout.write(f"{json.dumps(rows[-1])}\n")
        sys.stdout.flush()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
