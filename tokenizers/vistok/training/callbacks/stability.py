"""Warnings of unstable adversarial training: a discriminator that wins, or curves that leave a reference band."""

import csv
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl

from vistok.terminal import say

ADVICE = (
    "a later optim.adversarial_start, loss.adversary.warmup=1000, a smaller loss.loss_weights.adversarial, "
    "loss=small_data's R1, LeCam and DiffAug, or more images"
)


class Band(NamedTuple):
    """Range of the values that one term took in reference runs."""

    updates: list[float]  # ascending
    low: list[float]
    high: list[float]

    def at(self, update: int) -> tuple[float, float] | None:
        """Lowest and highest value at an update, interpolated linearly; None before the first and after the last."""
        if not self.updates[0] <= update <= self.updates[-1]:
            return None
        return float(np.interp(update, self.updates, self.low)), float(np.interp(update, self.updates, self.high))


def read_bands(path: str | Path) -> dict[str, Band]:
    """Reads the bands from a CSV with the columns ``update``, ``term`` (as logged, ``train/l2``), ``low``, ``high``.

    Raises:
        ValueError: The file does not exist, or lacks these columns.
    """
    if not Path(path).is_file():
        raise ValueError(f"log.loss_band={path} is not a file")
    rows = defaultdict(list)
    with Path(path).open() as file:
        try:
            for row in csv.DictReader(file):
                rows[row["term"]].append((int(row["update"]), float(row["low"]), float(row["high"])))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"log.loss_band={path} must have the columns update, term, low, high: {error!r}"
            ) from error
    return {term: Band(*map(list, zip(*sorted(points), strict=True))) for term, points in rows.items()}


class Streak:
    """Number of updates for which a condition has held without a break.

    Attributes:
        since: First update at which the condition held; None while it does not hold.
        reported: True once the streak has reached its patience.
    """

    def __init__(self, since: int | None = None, reported: bool = False):
        self.since, self.reported = since, reported

    def observe(self, update: int, holds: bool, patience: int) -> bool:
        """Records the condition at an update; returns True the first time it has held for ``patience`` updates."""
        if not holds:
            self.since, self.reported = None, False
            return False
        self.since = update if self.since is None else self.since
        due = not self.reported and update - self.since >= patience
        self.reported |= due
        return due


class StabilityMonitor(pl.Callback):
    """Prints a warning once a problem shows in every logged value for ``patience`` updates.

    * The discriminator tells nearly all real images and reconstructions apart: the decoder then learns little from it.
    * A term is above or below the band of the reference, at updates that the reference covers.

    Args:
        reference: CSV file as ``read_bands`` reads it, made by ``benchmarks/stability.py``; None disables the
            comparison.
        patience: Updates for which a problem must last before it is reported.
        certain: Mean accuracy on real and reconstructed patches, in [0, 1], at which the discriminator counts as
            winning.
    """

    def __init__(self, reference: str | Path | None = None, patience: int = 200, certain: float = 0.995):
        self.reference, self.patience, self.certain = reference, patience, certain
        self.bands = read_bands(reference) if reference else {}
        self.streaks: defaultdict[str, Streak] = defaultdict(Streak)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if pl_module.batches % trainer.log_every_n_steps or not trainer.is_global_zero:
            return
        logged = {name: trainer.callback_metrics[name] for name in pl_module.logged if name.startswith("train/")}
        values = {name: float(value) for name, value in logged.items()}
        for line in self.check(pl_module.updates, values):
            say(line, "yellow")

    def check(self, update: int, values: dict[str, float]) -> list[str]:
        """Returns the warnings for the values logged at an update."""
        lines = []
        sides = [values[name] for name in ("train/accuracy_real", "train/accuracy_fake") if name in values]
        accuracy = sum(sides) / 2 if len(sides) == 2 else math.nan
        streak = self.streaks["discriminator"]
        if streak.observe(update, accuracy >= self.certain, self.patience):
            lines.append(
                f"discriminator accuracy {accuracy:.0%} since update {streak.since:,}: it distinguishes every "
                f"reconstruction from an image, and the decoder learns little from it; what to try: {ADVICE}"
            )
        for name, band in self.bands.items():
            limits = band.at(update)
            if name not in values or limits is None:
                continue
            low, high = limits
            outside = not low <= values[name] <= high  # NaN is outside
            streak = self.streaks[name]
            if streak.observe(update, outside, self.patience):
                lines.append(
                    f"{name} has been outside the reference band since update {streak.since:,}: now "
                    f"{values[name]:.4g}, where {self.reference} has {low:.4g} to {high:.4g}"
                )
        return lines

    def state_dict(self) -> dict[str, Any]:
        return {name: {"since": streak.since, "reported": streak.reported} for name, streak in self.streaks.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.streaks = defaultdict(Streak, {name: Streak(**state) for name, state in state_dict.items()})
