"""Tables and figures of all runs of the study that are finished, failed ones too.

    python benchmarks/study/report.py [--runs runs/study] [--out docs/images]

Writes ``study.md``, the tables, into ``--runs``, and the figures into ``--out``: ``study-usage.png``,
``study-rate.png``, ``study-heads.png``, ``study-vit.png``.
"""

import argparse
import csv
import json
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from plan import HEADS, RUNS, SIZES, Run, chosen
from run import ROOT, folder_of

matplotlib.use("Agg")
from matplotlib import pyplot

COLORS = dict(
    zip(HEADS, ("#888888", "#e6842a", "#137b80", "#8e6c8a", "#bd2d28", "#6f9c3d", "#3b6fb6", "#b0913a"), strict=True)
)
SECTIONS = {
    "heads": "Eight heads, two sizes of codebook",
    "collapse": "65,536 codewords",
    "backbone": "A ViT of as many FLOPs",
    "annealing": "Another schedule",
    "estimators": "Gradient estimators, and k-means with restarts",
    "seeds": "Two more seeds",
}
COLUMNS = (
    "run",
    "bits of an image",
    "by entropy",
    "PSNR, dB",
    "ST-LPIPS",
    "Fréchet, MobileNetV2",
    "usage of codewords (ceiling)",
    "perplexity",
)
TILE, GAP, CAPTION = 128, 6, 24


def results(folder: Path) -> dict[str, dict]:
    """Results of the finished runs, by name."""
    files = {run.name: folder_of(run, folder) / "result.json" for run in RUNS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def several(values: dict[str, float], name: str, form: str) -> str:
    """A number of each codebook."""
    found = [value for key, value in values.items() if key == name or key.removeprefix(f"{name}_").isdigit()]
    return " / ".join(format(value, form) for value in found)


def row(run: Run, found: dict[str, dict], folder: Path) -> str:
    if run.name not in found:
        error = folder_of(run, folder) / "error.txt"
        reason = f"failed: {error.read_text().splitlines()[-1]}" if error.is_file() else "not run yet"
        return f"| {run.name} | {reason} |" + " |" * (len(COLUMNS) - 2)
    result = found[run.name]
    m, usage = result["metrics"], result["usage"]
    cells = [
        run.name,
        f"{m['bits_per_image']:,.0f}",
        f"{m['bits_per_image_entropy']:,.0f}",
        f"{m['psnr']:.2f}",
        f"{m['stlpips']:.3f}",
        f"{m['frechet_mobilenet_v2']:.1f}",
        f"{several(usage, 'usage', '.1%')} ({several(usage, 'usage_ceiling', '.0%')})",
        several(usage, "perplexity", ",.0f"),
    ]
    return f"| {' | '.join(cells)} |"


def tables(found: dict[str, dict], folder: Path) -> str:
    parts = []
    for section, title in SECTIONS.items():
        rows = [row(run, found, folder) for run in RUNS if run.section == section]
        parts += [f"**{title}**\n", f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|", *rows, ""]
    return "\n".join(parts)


def curve(run: Run, folder: Path) -> tuple[list[float], list[float]]:
    """Updates, and usage over its ceiling in each window of training: the least of several codebooks."""
    updates, shares = [], []
    with (folder_of(run, folder) / "metrics.csv").open() as file:
        for line in csv.DictReader(file):
            own = [key for key in line if key.startswith("codebook/usage") and "ceiling" not in key and line[key]]
            if own:
                updates.append(float(line["updates"]))
                shares.append(min(float(line[key]) / float(line[key.replace("usage", "usage_ceiling")]) for key in own))
    return updates, shares


def usage_figure(found: dict[str, dict], folder: Path, file: Path) -> None:
    figure, sides = pyplot.subplots(1, len(SIZES), figsize=(10, 3.6), sharey=True, layout="constrained")
    for axes, size in zip(sides, SIZES, strict=True):
        for run in RUNS:
            if run.section in ("heads", "collapse") and run.size == size and run.name in found:
                axes.plot(*curve(run, folder), color=COLORS[run.head], label=run.head, linewidth=1.8)
        axes.set(title=f"{SIZES[size]:,} codewords", xlabel="updates", ylim=(0, 1.03))
        axes.spines[["top", "right"]].set_visible(False)
    sides[0].set_ylabel("usage in a window, of its ceiling")
    handles = [pyplot.Line2D([], [], color=color, label=head, linewidth=2.4) for head, color in COLORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncol=len(HEADS), frameon=False)
    figure.savefig(file, dpi=130)


def rate_figure(found: dict[str, dict], file: Path) -> None:
    names = {
        "psnr": "PSNR, dB",
        "stlpips": "ST-LPIPS (lower is better)",
        "frechet_mobilenet_v2": "Fréchet, MobileNetV2",
    }
    figure, sides = pyplot.subplots(1, 3, figsize=(10, 3.8), layout="constrained")
    markers = {"1k": "o", "16k": "s", "65k": "^"}
    for axes, (metric, label) in zip(sides, names.items(), strict=True):
        for run in RUNS:
            if run.section in ("heads", "collapse") and run.name in found:
                m = found[run.name]["metrics"]
                axes.plot(
                    m["bits_per_image_entropy"], m[metric], markers[run.size], color=COLORS[run.head], markersize=7
                )
        axes.set(xlabel="bits of an image, by entropy", title=label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [pyplot.Line2D([], [], color=c, label=head, marker="o", linestyle="") for head, c in COLORS.items()]
    handles += [
        pyplot.Line2D([], [], color="black", label=f"{SIZES[size]:,}", marker=marker, linestyle="", fillstyle="none")
        for size, marker in markers.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncol=len(handles),
        frameon=False,
        handletextpad=0.1,
        columnspacing=1,
    )
    figure.savefig(file, dpi=130)


def pictures(runs: list[Run], found: dict[str, dict], folder: Path, file: Path) -> None:
    """The same photos by each of these runs that is finished: originals first."""
    runs = [run for run in runs if run.name in found]
    if not runs:
        return
    sheets = [Image.open(folder_of(run, folder) / "pictures.png").convert("RGB") for run in runs]
    side = sheets[0].height // 2
    count = sheets[0].width // side
    rows: list[tuple[str, Image.Image, int]] = [("originals", sheets[0], 0)]
    for run, sheet in zip(runs, sheets, strict=True):
        m = found[run.name]["metrics"]
        rows.append((f"{run.name}: {m['psnr']:.1f} dB, {m['bits_per_image_entropy']:,.0f} bits", sheet, side))
    width = count * (TILE + GAP) - GAP
    canvas = Image.new("RGB", (width, len(rows) * (CAPTION + TILE + GAP)), (255, 255, 255))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)
    for i, (text, sheet, top) in enumerate(rows):
        y = i * (CAPTION + TILE + GAP)
        draw.text((2, y + CAPTION // 2), text, fill=(30, 30, 30), font=font, anchor="lm")
        for j in range(count):
            tile = sheet.crop((j * side, top, (j + 1) * side, top + side)).resize(
                (TILE, TILE), Image.Resampling.NEAREST
            )
            canvas.paste(tile, (j * (TILE + GAP), y + CAPTION))
    canvas.save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the study's tables and figures.")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "study")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    arguments = parser.parse_args()
    found = results(arguments.runs)
    (arguments.runs / "study.md").write_text(tables(found, arguments.runs))
    usage_figure(found, arguments.runs, arguments.out / "study-usage.png")
    rate_figure(found, arguments.out / "study-rate.png")
    heads = [run for run in RUNS if run.section == "heads" and run.size == "16k"]
    pictures(heads, found, arguments.runs, arguments.out / "study-heads.png")
    pictures(chosen(["vq_ema, 16k", "backbone"]), found, arguments.runs, arguments.out / "study-vit.png")


if __name__ == "__main__":
    main()
