"""Reports of updates that were skipped, and the end of a run whose numbers stay non-finite."""

import json
import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from vistok.terminal import say
from vistok.training.checkpoint_io import last_one
from vistok.training.run_folder import LAST
from vistok.training.updates import Outcome

CALMER = "What to try: a lower optimizer.lr, a longer schedule.warmup, a smaller clip"


class NotFinite(ValueError):
    """Losses, gradients or weights are not finite and do not recover."""


class FiniteMonitor(pl.Callback):
    """Reports updates that were skipped because a number was not finite, and stops a run that does not recover.

    Each skipped update adds a line to ``not_finite.jsonl``: the update, the rank, the names of the images in its last
    batch, and the value of every loss term and gradient norm. The line is written at the next logging interval.

    Args:
        folder: Folder of ``not_finite.jsonl``.
        patience: Number of consecutive skipped updates that stops the run.
    """

    def __init__(self, folder: Path, patience: int = 10):
        self.folder, self.patience = folder, patience
        self.in_a_row = 0
        self.names: list[list[str]] = []  # images in the last batch of each update whose outcome is not yet known

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.folder = trainer.strategy.broadcast(self.folder)  # its name has the time, which each rank reads by itself

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if pl_module.batches % pl_module.accumulate == 0:
            self.names.append(trainer.datamodule.names)
        self._process_outcomes(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._process_outcomes(trainer, pl_module)
        checkpoint["not_finite_in_a_row"] = self.in_a_row

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.in_a_row = checkpoint.get("not_finite_in_a_row", 0)  # earlier checkpoints do not have it

    def _process_outcomes(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for outcome in module.take_outcomes():
            self._process(outcome, self.names.pop(0), trainer)

    def _process(self, outcome: Outcome, images: list[str], trainer: pl.Trainer) -> None:
        self.in_a_row = self.in_a_row + 1 if outcome.skipped else 0
        if not outcome.skipped:
            return
        wrong = {name: value for name, value in outcome.skipped.items() if not math.isfinite(value)}
        line = {"update": outcome.update, "rank": trainer.global_rank, "images": images}
        with (self.folder / "not_finite.jsonl").open("a") as file:
            values = {name: str(value) for name, value in outcome.skipped.items()}
            file.write(json.dumps(line | {"values": values}) + "\n")
        names = ", ".join(wrong) or "something on another rank"
        if trainer.is_global_zero:
            text = f"update {outcome.update:,} was skipped: {names} not finite; see {self.folder}/not_finite.jsonl"
            say(text, "yellow")
        if self.in_a_row >= self.patience:
            last = last_one(self.folder / LAST)
            raise NotFinite(f"{self.in_a_row} updates in a row were not finite ({names}); {last}. {CALMER}")
