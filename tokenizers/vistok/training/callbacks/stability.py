"""Says when adversarial training goes wrong: the discriminator wins, or curves leave the band of a reference."""

import csv
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl

from vistok.terminal import say

ADVICE = (
    "a later adversarial_start, loss.adversary.warmup=1000, a smaller loss.weights.adversarial, loss=small_data's R1, "
    "LeCam and DiffAug, or more images"
)


class Band(NamedTuple):
    """Where the curve of one term has been in reference runs."""

    updates: list[float]  # ascending
    low: list[float]
    high: list[float]

    def at(self, update: int) -> tuple[float, float] | None:
        """The lowest and highest value at an update, between two of the band in proportion; None outside of it."""
        if not self.updates[0] <= update <= self.updates[-1]:
            return None
        return float(np.interp(update, self.updates, self.low)), float(np.interp(update, self.updates, self.high))


def read_bands(path: str | Path) -> dict[str, Band]:
    """The bands in a CSV with the columns ``update``, ``term`` (as logged, ``train/l2``), ``low``, ``high``.

    Raises:
        ValueError: It is not there, or not such a file.
    """
    if not Path(path).is_file():
        raise ValueError(f"reference={path} is not a file")
    rows = defaultdict(list)
    with Path(path).open() as file:
        try:
            for row in csv.DictReader(file):
                rows[row["term"]].append((int(row["update"]), float(row["low"]), float(row["high"])))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"reference={path} must have the columns update, term, low, high: {error!r}") from error
    return {term: Band(*map(list, zip(*sorted(points), strict=True))) for term, points in rows.items()}


class Spell:
    """For how long something has gone on.

    Attributes:
        since: The update at which it was first seen, of those without a break; None if it does not go on.
        told: Whether it was found to have gone on for long enough.
    """

    def __init__(self, since: int | None = None, told: bool = False):
        self.since, self.told = since, told

    def see(self, update: int, going_on: bool, patience: int) -> bool:
        """Whether it has now, and not before, gone on for ``patience`` updates."""
        if not going_on:
            self.since, self.told = None, False
            return False
        self.since = update if self.since is None else self.since
        due = not self.told and update - self.since >= patience
        self.told |= due
        return due


class StabilityWatch(pl.Callback):
    """Reads what is logged, and prints a line once something has been wrong in every logged value for a while.

    * The discriminator tells nearly all real images and reconstructions apart: the decoder then learns little from it.
    * A term is above or below the reference's band, at updates that the reference has.

    Args:
        reference: A CSV as ``read_bands`` reads it, from ``benchmarks/stability.py``; None compares with nothing.
        patience: Updates.
        certain: Mean accuracy on real and reconstructed patches from which the discriminator has won.
    """

    def __init__(self, reference: str | Path | None = None, patience: int = 200, certain: float = 0.995):
        self.reference, self.patience, self.certain = reference, patience, certain
        self.bands = read_bands(reference) if reference else {}
        self.spells: defaultdict[str, Spell] = defaultdict(Spell)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if pl_module.batches % trainer.log_every_n_steps or not trainer.is_global_zero:
            return
        logged = {name: trainer.callback_metrics[name] for name in pl_module.logged if name.startswith("train/")}
        values = {name: float(value) for name, value in logged.items()}
        for line in self.judge(pl_module.updates, values):
            say(line, "yellow")

    def judge(self, update: int, values: dict[str, float]) -> list[str]:
        """What is to be said about the values logged at an update."""
        lines = []
        sides = [values[name] for name in ("train/accuracy_real", "train/accuracy_fake") if name in values]
        accuracy = sum(sides) / 2 if len(sides) == 2 else math.nan
        spell = self.spells["discriminator"]
        if spell.see(update, accuracy >= self.certain, self.patience):
            lines.append(
                f"discriminator accuracy {accuracy:.0%} since update {spell.since:,}: it tells every reconstruction "
                f"from an image, and the decoder learns little from it; what to try: {ADVICE}"
            )
        for name, band in self.bands.items():
            limits = band.at(update)
            if name not in values or limits is None:
                continue
            low, high = limits
            outside = not low <= values[name] <= high  # NaN is outside
            spell = self.spells[name]
            if spell.see(update, outside, self.patience):
                lines.append(
                    f"{name} has been outside the reference band since update {spell.since:,}: now {values[name]:.4g}, "
                    f"where {self.reference} has {low:.4g} to {high:.4g}"
                )
        return lines

    def state_dict(self) -> dict[str, Any]:
        return {name: {"since": spell.since, "told": spell.told} for name, spell in self.spells.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.spells = defaultdict(Spell, {name: Spell(**state) for name, state in state_dict.items()})
