"""CPU time of ``import vistok`` and ``train.py --help`` against ``import torch``, each in new processes, in turn.

python benchmarks/imports.py [--gate] [--rounds N]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "import torch": ["-c", "import torch"],
    "import vistok": ["-c", "import vistok"],
    "train.py --help": [str(ROOT / "train.py"), "--help"],
}
BAR = 1.5


def cpu_seconds(words: list[str]) -> float:
    """User and system time of Python with these words."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environment, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", action="store_true", help="exit with 1 where the bar is missed")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for words in COMMANDS.values():  # writes the compiled files
        cpu_seconds(words)
    for _ in range(arguments.rounds):
        for name, words in COMMANDS.items():
            times[name].append(cpu_seconds(words))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {name: median / medians["import torch"] for name, median in medians.items()}
    for name, median in medians.items():
        print(f"{name:16} {median:.2f} s of CPU, {ratios[name]:.2f} times import torch (bar {BAR})")
    if max(ratios.values()) >= BAR and arguments.gate:
        sys.exit(1)


if __name__ == "__main__":
    main()
