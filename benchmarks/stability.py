"""Record the loss curves of a recipe that goes well: a band for ``log.loss_band=`` and a plot of it.

    python benchmarks/stability.py [OVERRIDE ...]

Trains the recipe with three seeds, one after the other, into ``runs/stability/SEED``; finished runs are not repeated.
Writes ``docs/stability/reference.csv`` and ``.png``. The band of a window of updates goes from the least to the largest
value logged in it by any run, and half of that further on each side.
"""

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "runs" / "stability"
OUTPUT = ROOT / "docs" / "stability" / "reference"
LEFT_OUT = ("train/lr",)
Curves = dict[str, list[tuple[int, float]]]


def train(run: Path, words: Sequence[str], seed: int) -> None:
    command = [sys.executable, ROOT / "train.py", *words, f"run.seed={seed}", f"run.dir={run}"]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def curves_of(run: Path) -> Curves:
    """Updates and values of every ``train/`` number of a run."""
    curves: Curves = {}
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name.startswith("train/") and value:
                    curves.setdefault(name, []).append((int(float(row["updates"])), float(value)))
    return curves


def bands(runs: Sequence[Curves], window: int) -> list[tuple[int, str, float, float]]:
    """Rows of the CSV: the middle of each window, the term, and the band's limits."""
    rows = []
    for term in sorted({name for curves in runs for name in curves} - set(LEFT_OUT)):
        points = [point for curves in runs for point in curves.get(term, [])]
        for first in range(0, max(update for update, _ in points), window):
            values = [value for update, value in points if first < update <= first + window]
            if values:
                low, high = min(values), max(values)
                margin = (high - low) / 2
                rows.append((first + window // 2, term, low - margin, high + margin))
    return rows


def draw(runs: Sequence[Curves], rows: Sequence[tuple[int, str, float, float]], path: Path) -> None:
    terms = list(dict.fromkeys(row[1] for row in rows))
    columns = 3
    figure, axes = plt.subplots(
        -(-len(terms) // columns), columns, figsize=(12, 2.6 * -(-len(terms) // columns)), squeeze=False
    )
    for axis in axes.flat[len(terms) :]:
        axis.set_visible(False)
    for axis, term in zip(axes.flat, terms, strict=False):
        updates, _, low, high = zip(*(row for row in rows if row[1] == term), strict=True)
        axis.fill_between(updates, low, high, color="0.85", linewidth=0)
        for curves in runs:
            axis.plot(*zip(*curves.get(term, [(0, float("nan"))]), strict=True), linewidth=0.8)
        axis.set_title(term.removeprefix("train/"), fontsize=9)
        axis.tick_params(labelsize=8)
    figure.supxlabel("update", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(words: Sequence[str], seeds: int = 3, folder: Path = FOLDER, output: Path = OUTPUT) -> None:
    for seed in range(seeds):
        if not (folder / str(seed) / "metrics.json").is_file():
            train(folder / str(seed), words, seed)
    runs = [curves_of(folder / str(seed)) for seed in range(seeds)]
    last = max(update for curves in runs for points in curves.values() for update, _ in points)
    rows = bands(runs, window=max(1, last // 20))
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("update", "term", "low", "high"))
        writer.writerows((update, term, f"{low:.6g}", f"{high:.6g}") for update, term, low, high in rows)
    draw(runs, rows, output.with_suffix(".png"))


if __name__ == "__main__":
    main(sys.argv[1:])
