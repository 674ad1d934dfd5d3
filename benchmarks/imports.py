"""CPU time of imports, of ``train.py --help`` and of a wrong config, each in new processes, in turn.

    python benchmarks/imports.py [--gate] [--rounds N]

``import vistok`` alone imports nothing; ``vistok.load`` is its first use, with torch, networks and readers of files.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TRAIN, EVAL = str(ROOT / "train.py"), str(ROOT / "eval.py")


class Case(NamedTuple):
    """Words of Python, and the most that they may take."""

    words: list[str]
    base: str = ""  # the case whose median counts as 1
    target: float = 0.0  # times the base, or seconds of CPU where there is none; 0 for no target
    status: int = 0  # of the process


CASES = {
    "import torch": Case(["-c", "import torch"]),
    "import vistok": Case(["-c", "import vistok"], "import torch", 1.1),
    "vistok.load": Case(["-c", "import vistok; vistok.load"], "import torch"),
    "import vistok.tokens": Case(["-c", "from vistok.tokens import TokenDataset"], "vistok.load", 1.2),
    "train.py --help": Case([TRAIN, "--help"], "import torch", 1.3),
    "an unknown key": Case([TRAIN, "nonsense=1"], target=1.0, status=1),
    "a value of another type": Case([TRAIN, "quantizer.codebook_size=abc"], target=1.0, status=1),
    "a wrong recipe": Case(
        [TRAIN, "experiment=fvq_16k_imagenet256", "data.root=x", "optimizer.lr=abc"], target=1.0, status=1
    ),
    "a missing value": Case([EVAL], target=1.0, status=1),
}


def cpu_seconds(case: Case, folder: str) -> float:
    """User and system time of Python with the words of a case."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *case.words], capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode != case.status:
        raise RuntimeError(f"{' '.join(case.words)} ended with {done.returncode}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", action="store_true", help="exit with 1 if a target is not reached")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each case (default: 5)")
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES.values():  # writes the compiled files
            cpu_seconds(case, folder)
        for _ in range(arguments.rounds):
            for name, case in CASES.items():
                times[name].append(cpu_seconds(case, folder))
    medians = {name: statistics.median(values) for name, values in times.items()}
    unreached = []
    for name, case in CASES.items():
        value = medians[name] / medians[case.base] if case.base else medians[name]
        told = f"{value:.2f} times {case.base}" if case.base else ""
        target = f"(target {case.target:g}{'' if case.base else ' s'})" if case.target else ""
        print(f"{name:24} {medians[name]:.2f} s of CPU  {told} {target}".rstrip())
        unreached += [name] if case.target and value > case.target else []
    if unreached and arguments.gate:
        sys.exit(1)


if __name__ == "__main__":
    main()
