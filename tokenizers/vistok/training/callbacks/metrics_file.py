"""``metrics.csv``: every logged number of a run, each row once, for any number of kills and resumes."""

import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from vistok.files import atomic_write
from vistok.training.callbacks.metrics_rows import Row, is_validation, read_rows, text_of
from vistok.training.curves import curves_plot

CURVES = "curves.png"
FEWEST = 3  # rows that make no curve yet


class MetricsFile(pl.Callback):
    """Adds a row to a CSV file at each logging interval and after each validation, which also draws ``curves.png``
    if there are enough rows.

    A row is on disk before the checkpoint of its update is written. A resumed run continues the same file: rows of
    batches after its checkpoint, which are repeated, move to ``metrics_1.csv`` or the next free number; so does a file
    that is not such a CSV.

    Args:
        path: Path of the file.

    Attributes:
        validated: The ``step`` of the last validation that has a row, or -1.
    """

    def __init__(self, path: Path):
        self.path = path
        self.columns: list[str] = []
        self.validated = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or not self.path.exists():
            return
        rows = self._read()
        kept = [row for row in rows if int(row["step"]) < pl_module.batches]
        lost = [row for row in rows if int(row["step"]) >= pl_module.batches]
        if lost:
            self._write(lost, self._free_name())
        if kept:
            self._write(kept, self.path)
        else:
            self.path.unlink(missing_ok=True)
        self.validated = max((int(row["step"]) for row in kept if is_validation(row)), default=-1)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if pl_module.batches % trainer.log_every_n_steps == 0:
            self._add(trainer, pl_module, pl_module.logged)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = pl_module.batches - 1
        if step != self.validated:
            self._add(trainer, pl_module, {name for name in trainer.callback_metrics if name.startswith("val/")})
        self.validated = step
        rows = self._read() if trainer.is_global_zero else []
        if len(rows) > FEWEST:
            adversary = getattr(pl_module, "adversary", None)
            picture = curves_plot(rows, adversary.start if adversary else None)
            with atomic_write(self.path.with_name(CURVES)) as file:
                picture.save(file, "PNG")

    def _add(self, trainer: pl.Trainer, module: pl.LightningModule, names: set[str]) -> None:
        if not trainer.is_global_zero:
            return
        values = {name: float(trainer.callback_metrics[name]) for name in names}
        row = {"epoch": trainer.current_epoch, "step": module.batches - 1} | values
        if not row.keys() <= set(self.columns) or not self.path.exists():
            self._write([*self._read(), row], self.path)
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _read(self) -> list[Row]:
        """Rows of the file. A file with other content is renamed."""
        rows = read_rows(self.path) if self.path.exists() else []
        if rows is None:
            self.path.rename(self._free_name())
        return rows or []

    def _write(self, rows: list[Row], path: Path) -> None:
        self.columns = sorted({name for row in rows for name in row})
        with atomic_write(path) as file:
            file.write(text_of(rows, self.columns).encode())

    def _free_name(self) -> Path:
        n = 1
        while (path := self.path.with_name(f"{self.path.stem}_{n}{self.path.suffix}")).exists():
            n += 1
        return path


class MissedValidation(pl.Callback):
    """Repeats an interrupted validation before the resumed run continues.

    A run that has made all of its updates, and was killed before it was closed, is validated and ends.

    Args:
        metrics: Callback that records finished validations.
    """

    def __init__(self, metrics: MetricsFile):
        self.metrics = metrics

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        finished = pl_module.updates >= pl_module.schedule.updates
        missed = self.metrics.validated != pl_module.batches - 1 and validation_follows(trainer, pl_module)
        missed = missed and resumes_in(self.metrics.path.parent, trainer)
        if finished or trainer.strategy.broadcast(missed):  # only rank 0 has read the file
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False  # it begins at its first batch
            trainer.validating = True
            loop.run()
            trainer.training = True
        trainer.should_stop = finished


def validation_follows(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """True if a validation follows the batches made so far."""
    due = trainer.should_stop or module.batches % trainer.val_check_batch == 0
    return bool(trainer.enable_validation and module.batches and due)


def resumes_in(run: Path, trainer: pl.Trainer) -> bool:
    """True if the run resumes from a checkpoint of its own folder."""
    return trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve().is_relative_to(run.resolve())
