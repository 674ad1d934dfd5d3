"""Time of a run over all of its attempts."""

import time
from typing import Any

import pytorch_lightning as pl


class RunTime(pl.Callback):
    """Measures the seconds of a run: those of this attempt, and those up to the checkpoint that it resumes from."""

    def __init__(self):
        self.before = 0.0
        self.started: float | None = None

    @property
    def seconds(self) -> float:
        return self.before + (0.0 if self.started is None else time.monotonic() - self.started)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.started = time.monotonic()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.before = checkpoint.get("seconds", 0.0)  # earlier checkpoints have none
