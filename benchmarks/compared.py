"""Shared parts of comparisons of runs: training each into its own folder, a table, and a picture of all."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import vistok
from vistok.images.ranges import to_float, to_uint8
from vistok.metrics import psnr
from vistok.plots.picture_rows import CAPTION, GAP, tiles

ROOT = Path(__file__).parent.parent
CPU = "seconds of CPU time: "
SIZE, SHEETS = 96, 2  # pixels of a tile; columns of runs, as a page is wider than high


def folder_of(name: str, folder: Path) -> Path:
    words = "".join(c if c.isalnum() else " " for c in name.lower().replace("'", "")).split()
    return folder / "_".join(words)


def finished(name: str, folder: Path) -> bool:
    return (folder_of(name, folder) / "metrics.json").is_file()


def launch(run: Path, words: Sequence[str]) -> dict | None:
    """Content of ``metrics.json`` after ``train.py``; None if it ended in an error.

    The run's output, and the CPU time that it took with its loaders, are in ``log.txt``.
    """
    command = [sys.executable, ROOT / "train.py", *words, f"run.dir={run}"]
    before = children_seconds()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    run.mkdir(parents=True, exist_ok=True)
    (run / "log.txt").write_text(f"{done.stdout}{done.stderr}\n{CPU}{children_seconds() - before:.0f}\n")
    report = run / "metrics.json"
    return json.loads(report.read_text()) if report.is_file() else None


def children_seconds() -> float:
    """CPU time of all processes that this one has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cpu_minutes(name: str, folder: Path) -> float:
    """CPU time of a run that ``launch`` made."""
    return float((folder_of(name, folder) / "log.txt").read_text().rpartition(CPU)[2]) / 60


def table(columns: Sequence[str], rows: Iterable[str]) -> str:
    return "\n".join([f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|", *rows]) + "\n"


def picture(names: Sequence[str], images: torch.Tensor, folder: Path) -> Image.Image:
    """The same held-out images (n, 3, H, W) uint8 by each run, a row each."""
    rows = [("original", images)]
    for name in names:
        with torch.no_grad():
            rebuilt = to_uint8(vistok.load(folder_of(name, folder))(to_float(images)).reconstruction)
        rows.append((f"{name}: {psnr(rebuilt, images).mean():.1f} dB on these", rebuilt))
    per_sheet = -(-len(rows) // SHEETS)
    width = len(images) * (SIZE + GAP) + GAP
    canvas = Image.new("RGB", (SHEETS * (width + 3 * GAP), per_sheet * (CAPTION + SIZE + GAP)), (255, 255, 255))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for i, (text, pictures) in enumerate(rows):
        left, top = i // per_sheet * (width + 3 * GAP), i % per_sheet * (CAPTION + SIZE + GAP)
        draw.text((left + GAP, top + CAPTION // 2), text, fill=(40, 40, 40), font=font, anchor="lm")
        for column, tile in enumerate(tiles(pictures, [(SIZE, SIZE)] * len(pictures))):
            canvas.paste(tile, (left + GAP + column * (SIZE + GAP), top + CAPTION))
    return canvas
