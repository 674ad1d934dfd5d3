"""Collapses that the codebook health sees, and healthy runs that it leaves in peace: a picture.

    python benchmarks/heads.py vq vq_ema simvq "fq, 2 codebooks" dqvae && python benchmarks/collapse.py

The real collapse and the healthy runs are those of ``benchmarks/heads.py``; the synthetic one is trained here: 600
updates of ``vq_ema`` without restarts, whose codewords are moved far away after update 300.
"""

import csv
from pathlib import Path

import hydra
import pytorch_lightning as pl
from compared import ROOT, folder_of
from heads import FOLDER
from matplotlib import pyplot
from pytorch_lightning.loggers import CSVLogger

from vistok.training import run as training_run
from vistok.training.callbacks.codebook_health import CodebookHealth

INJURED_AT = 300
COLLAPSED = {"vq": "quantizer=vq: a real collapse", "synthetic": f"vq_ema, injured at update {INJURED_AT}"}
HEALTHY = ("vq_ema", "simvq", "fq, 2 codebooks", "dqvae")


class Injury(pl.Callback):
    """Moves every codeword but one far from all latents."""

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        if pl_module.updates == INJURED_AT:
            head = pl_module.tokenizer.quantizer
            head.codewords[1:] += 100
            head.ema_sums[1:] = head.codewords[1:] * head.ema_counts[1:, None]


def train_synthetic(run: Path) -> None:
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        words = [
            "backbone=cnn_f8_small",
            "optim.updates=600",
            "quantizer=vq_ema",
            "quantizer.restart=null",
            "quantizer.kmeans_updates=20",
            "loss=l1",
        ]
        config = hydra.compose("train", overrides=words)
    pl.seed_everything(config.run.seed, verbose=False)
    data, lit = training_run.build(config)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=CSVLogger(run, name="", version=""),
        log_every_n_steps=config.log.every,
        callbacks=[Injury(), CodebookHealth()],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(lit, datamodule=data)


def windows(run: Path) -> tuple[list[float], list[float], list[float]]:
    """Updates, usage (of the least used codebook) and whether it counted as collapsed, for each window."""
    updates, usage, collapsed = [], [], []
    with (run / "metrics.csv").open() as file:
        for line in csv.DictReader(file):
            shares = [float(line[key]) for key in line if key.startswith("codebook/usage") and "ceiling" not in key
                      and line[key]]  # fmt: skip
            if shares:
                updates.append(float(line["updates"]))
                usage.append(min(shares))
                flags = [float(line[key]) for key in line if key.startswith("codebook/collapsed") and line[key]]
                collapsed.append(max(flags))
    return updates, usage, collapsed


def main() -> None:
    synthetic = FOLDER / "synthetic"
    if not synthetic.is_dir():
        train_synthetic(synthetic)
    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=120, layout="constrained")
    for name, label in COLLAPSED.items():
        updates, usage, collapsed = windows(synthetic if name == "synthetic" else folder_of(name, FOLDER))
        flagged = next(update for update, flag in zip(updates, collapsed, strict=True) if flag)
        (line,) = axes.plot(updates, usage, label=f"{label}, flagged at update {flagged:.0f}", linewidth=2)
        axes.axvline(flagged, color=line.get_color(), linestyle="--", linewidth=1)
    for name in HEALTHY:
        updates, usage, collapsed = windows(folder_of(name, FOLDER))
        said = "never flagged" if not any(collapsed) else "FLAGGED"
        axes.plot(updates, usage, label=f"{name}: {said}", linewidth=1)
    axes.set_xlim(0, 800)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("updates")
    axes.set_ylabel("usage in windows of 20 updates")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.12), ncol=2)
    figure.savefig(FOLDER / "health.png")


if __name__ == "__main__":
    main()
