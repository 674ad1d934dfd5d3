"""Progress of a run: a bar in a terminal, elsewhere a line from time to time."""

import re
import time
from typing import Any

import pytorch_lightning as pl
from rich import get_console
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from vistok.processes.notebook_output import LiveDisplay, live_display
from vistok.terminal import say


class ProgressLine(pl.Callback):
    """Live bar with losses, PSNR, codebook usage, perplexity and remaining time; plain lines without a terminal.

    Numbers are read only at logging intervals, since each reading waits for the GPU.

    Args:
        pause: Smallest number of seconds between two plain lines.
    """

    def __init__(self, pause: float = 10.0):
        self.pause, self.console = pause, get_console()  # shared, so that other output appears above the bar
        self.live: LiveDisplay | None = None
        self.last_line = float("-inf")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("updates ·"),
            TimeElapsedColumn(),
            TextColumn("·"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            expand=True,
        )
        total = pl_module.schedule.updates
        self.task = self.bar.add_task("training", total=total, completed=pl_module.updates)
        self.training, self.validation = Text(""), Text("")
        self.live = live_display(Group(self.bar, self.training, self.validation), self.console)
        if self.live:
            self.live.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        if self.live:
            self.bar.update(self.task, completed=pl_module.updates, description="training")
        if pl_module.batches % trainer.log_every_n_steps == 0:
            self.training.plain = numbers("train", trainer.callback_metrics)
            if not self.live and time.monotonic() >= self.last_line + self.pause:
                self.last_line = time.monotonic()
                done = f"{pl_module.updates}/{pl_module.schedule.updates}"
                say(f"update {done}  {self.training.plain}", console=self.console)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.live:
            self.bar.update(self.task, description="validating")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and trainer.state.fn == "fit":
            self.validation.plain = numbers("val", trainer.callback_metrics)
            if not self.live:
                say(self.validation.plain, console=self.console)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.live:
            self.live.stop()
            self.live = None


USAGE = ("usage", "perplexity", "entropy_bits", "tokens")  # shown by usage_parts(), or only logged


def numbers(prefix: str, metrics: dict[str, Tensor]) -> str:
    """Metrics of ``train/`` or ``val/`` in one line, codebook usage last."""
    parts = []
    for key, value in metrics.items():
        group, _, name = key.partition("/")
        if group != prefix or name.startswith(USAGE) or name.endswith(("_step", "_epoch", "images")):
            continue
        value = float(value)
        parts.append(f"{name} {value:.2f} dB" if name.startswith("psnr") else f"{name} {value:.4g}")
    parts += usage_parts("codebook" if prefix == "train" else prefix, metrics)
    return f"{prefix}: " + " · ".join(parts) if parts else ""


def usage_parts(group: str, metrics: dict[str, Tensor]) -> list[str]:
    """Usage and perplexity of every codebook, and the collapsed ones, from the metrics of ``codebook/`` or ``val/``."""
    own = {key.partition("/")[2]: float(value) for key, value in metrics.items() if key.startswith(f"{group}/")}
    suffixes = [name.removeprefix("usage") for name in own if re.fullmatch(r"usage(_\d+)?", name)]
    if not suffixes:
        return []
    usage = "/".join(f"{own[f'usage{suffix}']:.0%}" for suffix in suffixes)
    ceilings = "/".join(dict.fromkeys(f"{own[f'usage_ceiling{suffix}']:.0%}" for suffix in suffixes))  # once if alike
    perplexity = "/".join(f"{own[f'perplexity{suffix}']:.4g}" for suffix in suffixes)
    parts = [f"usage {usage} of at most {ceilings} ({own['tokens']:,.0f} tokens)", f"perplexity {perplexity}"]
    collapsed = [suffix.replace("_", " ") for suffix in suffixes if own.get(f"collapsed{suffix}")]
    return parts + [f"CODEBOOK{suffix} COLLAPSED" for suffix in collapsed]
