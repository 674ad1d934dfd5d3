"""Every head, and heads in heads, trained for about two minutes on the default data: a table and a picture.

    python benchmarks/heads.py [NAME ...]

Runs one after the other with ``train.py`` into ``runs/heads/NAME``; finished ones are not repeated, so that the whole
can be done in parts. Writes ``runs/heads/table.md`` and ``runs/heads/heads.jpg`` of all that are finished.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import vistok
from vistok.data import sample
from vistok.metrics import psnr
from vistok.pictures import CAPTION, GAP, tiles
from vistok.pixels import to_float, to_uint8

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "runs" / "heads"
UPDATES = 1800
BUDGET = [f"updates={UPDATES}", f"val_every={UPDATES}", f"adversarial_start={UPDATES * 8 // 10}"]
RUNS = {
    "vq": ["quantizer=vq"],
    "vq, k-means and restarts": ["quantizer=vq", "quantizer.kmeans_updates=20", "quantizer.restart=0.1"],
    "vq_cosine, d = 8": ["quantizer=vq_cosine", "latent_dim=8"],
    "vq_ema": ["quantizer=vq_ema"],
    "simvq": ["quantizer=simvq"],
    "simvq, trainable basis": ["quantizer=simvq", "quantizer.trainable_basis=true"],
    "vqbridge": ["quantizer=vqbridge"],
    "vqbridge, annealed": ["quantizer=vqbridge", "schedule=annealed"],
    "vqbridge, dit, annealed": ["quantizer=vqbridge", "schedule=annealed", "quantizer.variant=dit"],
    "fq, 2 codebooks": ["quantizer=fq"],
    "dqvae": ["quantizer=dqvae"],
    "dqvae_triple": ["quantizer=dqvae_triple"],
    "dqvae_entropy": ["quantizer=dqvae_entropy"],
    "fq of simvq": ["quantizer=fq", "quantizer@quantizer.head=simvq"],
    "fq of vqbridge": ["quantizer=fq", "quantizer@quantizer.head=vqbridge"],
    "dqvae of simvq": ["quantizer=dqvae", "quantizer@quantizer.head=simvq"],
    "vq, rotation": ["quantizer=vq", "estimator=rotation", "quantizer_weights.commitment=1"],
    "vq, diveq": ["quantizer=vq", "estimator=diveq"],
    "simvq, rotation": ["quantizer=simvq", "estimator=rotation"],
    "simvq, diveq": ["quantizer=simvq", "estimator=diveq"],
}


def folder_of(name: str) -> Path:
    return FOLDER / name.replace(", ", "-").replace(" = ", "").replace(" ", "_")


def train(name: str) -> None:
    """One run, its output kept in ``log.txt`` beside what a run leaves."""
    run = folder_of(name)
    words = [sys.executable, ROOT / "train.py", *RUNS[name], *BUDGET, f"run_dir={run}"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    run.mkdir(parents=True, exist_ok=True)
    (run / "log.txt").write_text(done.stdout + done.stderr)


def row(name: str) -> str:
    """A run's line of the table."""
    run = folder_of(name)
    report = json.loads((run / "metrics.json").read_text())
    metrics = report["metrics"]
    k = 2 if "usage_1" in metrics else 1
    suffixes = [f"_{i}" for i in range(k)] if k > 1 else [""]
    tokens = metrics["tokens"] / metrics["images"] * k
    with (run / "metrics.csv").open() as file:
        trained = [line for line in csv.DictReader(file) if line.get(f"codebook/usage{suffixes[0]}")]
    usage = " / ".join(f"{float(trained[-1][f'codebook/usage{suffix}']):.1%}" for suffix in suffixes)
    perplexity = " / ".join(f"{metrics[f'perplexity{suffix}']:.0f}" for suffix in suffixes)
    flagged = "yes" if "has collapsed" in (run / "log.txt").read_text() else "–"
    return (
        f"| {name} | {tokens:.1f} | {metrics['psnr']:.2f} | {metrics['ssim']:.3f} | {usage} "
        f"({float(trained[-1]['codebook/tokens']):,.0f}) | {perplexity} | {flagged} |"
    )


def picture(names: list[str], columns: int = 6) -> Image.Image:
    """The same held-out crops by each head, a row each."""
    data = sample(image_size=64)
    images = torch.stack([data.test[0, i * len(data.test) // columns].image for i in range(columns)])
    rows = [("original", images)]
    for name in names:
        with torch.no_grad():
            rebuilt = to_uint8(vistok.load(folder_of(name))(to_float(images)).reconstruction)
        rows.append((f"{name}: {psnr(rebuilt, images).mean():.1f} dB on these", rebuilt))
    size = 96
    sheets = 2  # side by side, as a page is wider than high
    per_sheet = -(-len(rows) // sheets)
    width = columns * (size + GAP) + GAP
    canvas = Image.new("RGB", (sheets * (width + 3 * GAP), per_sheet * (CAPTION + size + GAP)), (255, 255, 255))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for i, (text, pictures) in enumerate(rows):
        left, top = i // per_sheet * (width + 3 * GAP), i % per_sheet * (CAPTION + size + GAP)
        draw.text((left + GAP, top + CAPTION // 2), text, fill=(40, 40, 40), font=font, anchor="lm")
        for column, tile in enumerate(tiles(pictures, (size, size))):
            canvas.paste(tile, (left + GAP + column * (size + GAP), top + CAPTION))
    return canvas


def main() -> None:
    for name in sys.argv[1:] or RUNS:
        if not (folder_of(name) / "metrics.json").is_file():
            train(name)
    names = [name for name in RUNS if (folder_of(name) / "metrics.json").is_file()]
    columns = ["head", "tokens", "PSNR", "SSIM", "usage in training (tokens)", "perplexity", "collapse flagged"]
    table = "\n".join([f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|", *(row(name) for name in names)])
    (FOLDER / "table.md").write_text(table + "\n")
    picture(names).save(FOLDER / "heads.jpg", quality=92)


if __name__ == "__main__":
    main()
