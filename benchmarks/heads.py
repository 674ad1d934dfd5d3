"""Every head, and heads in heads, trained for about two minutes on data=sample at f8: a table and a picture.

    python benchmarks/heads.py [NAME ...]

Runs one after the other with ``train.py`` into ``runs/heads/NAME``; finished ones are not repeated, so that the whole
can be done in parts. Writes ``runs/heads/table.md`` and ``runs/heads/heads.jpg`` of all that are finished.
"""

import csv
import json
import re
import sys

import torch
from compared import ROOT, finished, folder_of, launch, picture, table

from vistok.data import sample

FOLDER = ROOT / "runs" / "heads"
UPDATES = 1800
BUDGET = [
    "backbone=cnn_f8_small",
    f"optim.updates={UPDATES}",
    f"log.val_every={UPDATES}",
    f"optim.adversarial_start={UPDATES * 8 // 10}",
]
RUNS = {
    "vq": ["quantizer=vq"],
    "vq, k-means and restarts": ["quantizer=vq", "quantizer.kmeans_updates=20", "quantizer.restart=0.1"],
    "vq_cosine, d = 8": ["quantizer=vq_cosine", "model.latent_dim=8"],
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
    "bsq, 10 bits": ["quantizer=bsq", "model.latent_dim=10"],
    "lfq, 10 bits": ["quantizer=lfq", "model.latent_dim=10"],
    "lfq, 2 codes of 10 bits": ["quantizer=lfq", "model.latent_dim=20", "quantizer.num_codebooks=2"],
    "fsq, 1,000 codewords": ["quantizer=fsq", "model.latent_dim=4", "quantizer.levels=[8,5,5,5]"],
    "fsq, 2 codes": ["quantizer=fsq", "model.latent_dim=8", "quantizer.levels=[8,5,5,5]", "quantizer.num_codebooks=2"],
    "ibq": ["quantizer=ibq"],
    "gumbel": ["quantizer=gumbel"],
    "sf_diveq": ["quantizer=sf_diveq"],
    "sf_diveq, 300 updates without codes": ["quantizer=sf_diveq", "quantizer.skip_updates=300"],
    "ibq, d = 8": ["quantizer=ibq", "model.latent_dim=8"],
    "gumbel, kl = 0.01, final = 0.1": ["quantizer=gumbel", "quantizer.loss_weights.kl=0.01", "quantizer.final=0.1"],
    "fq of simvq": ["quantizer=fq", "quantizer@quantizer.head=simvq"],
    "fq of vqbridge": ["quantizer=fq", "quantizer@quantizer.head=vqbridge"],
    "fq of residual": ["quantizer=fq", "quantizer@quantizer.head=residual"],
    "dqvae of simvq": ["quantizer=dqvae", "quantizer@quantizer.head=simvq"],
    "residual, depth 4": ["quantizer=residual"],
    "residual of simvq": ["quantizer=residual", "quantizer@quantizer.head=simvq"],
    "residual of vq_cosine": [
        *("quantizer=residual", "quantizer@quantizer.head=vq_cosine", "model.latent_dim=8"),
        *("quantizer.factors=0.5", "quantizer.head.restart=0.1"),
    ],
    "residual of fsq": [
        "quantizer=residual",
        "quantizer@quantizer.head=fsq",
        "quantizer.estimate=heads",
        "quantizer.factors=0.25",
        "model.latent_dim=4",
    ],
    "multiscale": ["quantizer=multiscale", "quantizer.head.restart=0.1"],
    "multiscale_bsq, 16 bits": ["quantizer=multiscale_bsq", "model.latent_dim=16"],
    "multiscale of residual": ["quantizer=multiscale", "quantizer@quantizer.head=residual"],
    "vq, rotation": ["quantizer=vq", "estimator=rotation", "quantizer.loss_weights.commitment=1"],
    "vq, diveq": ["quantizer=vq", "estimator=diveq"],
    "simvq, rotation": ["quantizer=simvq", "estimator=rotation"],
    "simvq, diveq": ["quantizer=simvq", "estimator=diveq"],
}


def row(name: str) -> str:
    """A run's line of the table."""
    run = folder_of(name, FOLDER)
    report = json.loads((run / "metrics.json").read_text())
    metrics = report["metrics"]
    k = max([int(name[6:]) + 1 for name in metrics if re.fullmatch(r"usage_\d+", name)], default=1)
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


def main(columns: int = 6) -> None:
    for name in sys.argv[1:] or RUNS:
        if not finished(name, FOLDER):
            launch(folder_of(name, FOLDER), [*RUNS[name], *BUDGET])
    names = [name for name in RUNS if finished(name, FOLDER)]
    titles = ["head", "tokens", "PSNR", "SSIM", "usage in training (tokens)", "perplexity", "collapse flagged"]
    (FOLDER / "table.md").write_text(table(titles, map(row, names)))
    test = sample(image_size=64).test
    images = torch.stack([test[0, i * len(test) // columns].image for i in range(columns)])
    picture(names, images, FOLDER).save(FOLDER / "heads.jpg", quality=92)


if __name__ == "__main__":
    main()
