"""A small run on a quiet and on a busy machine, with several settings of OpenMP.

``vistok.processes.openmp`` rests on it.

``python benchmarks/busy_machine.py`` trains 200 updates for each setting, alone and beside as many busy loops as there
are cores, in turns, and prints the seconds of training of each round and the ratios of their medians to torch's own
settings. Nothing else should run meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_")
SETTINGS = {  # name: environment; the first is what the others are compared with
    "torch's own": {"GOMP_SPINCOUNT": "300000"},  # libgomp's value where nothing is set
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
    **{f"GOMP_SPINCOUNT={n}": {"GOMP_SPINCOUNT": str(n)} for n in (300, 1000, 2000, 3000, 5000, 10_000)},
    "vistok": {},  # what it chooses by itself
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=200, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each setting, quiet and busy")
    parser.add_argument("--only", nargs="*", choices=SETTINGS, default=list(SETTINGS), help="settings")
    asked = parser.parse_args()
    seconds: dict[tuple[str, bool], list[float]] = {}
    for _ in range(asked.rounds):
        for name in asked.only:
            for busy in (False, True):
                with busy_loops(os.cpu_count() if busy else 0):
                    seconds.setdefault((name, busy), []).append(train(SETTINGS[name], asked.updates))
    print("| setting | quiet, s | busy, s | quiet | busy |\n| --- | --- | --- | --- | --- |")
    for name in asked.only:
        shown, ratios = [], []
        for busy in (False, True):
            own, first = seconds[name, busy], seconds[asked.only[0], busy]
            shown.append(" ".join(f"{s:.1f}" for s in own))
            ratios.append(f"{statistics.median(own) / statistics.median(first):.2f}")
        print(f"| {' | '.join([name, *shown, *ratios])} |")


def train(variables: dict[str, str], updates: int) -> float:
    """The seconds that the training takes."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
    with tempfile.TemporaryDirectory() as folder:
        budget = [f"optim.updates={updates}", f"log.val_every={updates}"]
        command = [sys.executable, ROOT / "train.py", "backbone=cnn_f8_small", *budget, f"run.dir={folder}/run"]
        subprocess.run(command, env=own | variables, check=True, capture_output=True, cwd=folder)
        return json.loads(Path(folder, "run", "metrics.json").read_text())["seconds"]


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that each keep a core busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    main()
