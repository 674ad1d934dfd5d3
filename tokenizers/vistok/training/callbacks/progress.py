"""Progress of a run: a line from time to time and after each validation, and in a terminal a bar below them."""

import re
import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from rich import get_console
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from vistok.data.batches import Batch
from vistok.processes.notebook_output import LiveDisplay, live_display
from vistok.terminal import duration, say
from vistok.training.callbacks.run_time import RunTime


class ProgressLine(pl.Callback):
    """Lines that stay, with PSNR, usage, losses, learning rate, speed and the time left; in a terminal also a live bar.

    Numbers are read only at logging intervals, since each reading waits for the GPU.

    Args:
        pause: Smallest number of seconds between two lines of training.
        run_time: Time of the whole run, for the bar; None counts from now.
    """

    def __init__(self, pause: float = 10.0, run_time: RunTime | None = None):
        self.pause, self.run_time = pause, run_time or RunTime()
        self.console = get_console()  # shared, so that other output appears above the bar
        self.live: LiveDisplay | None = None
        self.last_line = float("-inf")
        self.images, self.validating, self.spent = 0, 0.0, 0.0  # since the last line: images; seconds of validations

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started, self.first = time.monotonic(), pl_module.updates
        self.counted_from = self.started
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
        self.bar.tasks[0].start_time -= self.run_time.before
        self.training, self.validation = Text(""), Text("")
        self.live = live_display(Group(self.bar, self.training, self.validation), self.console)
        if self.live:
            self.live.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        self.images += len(Batch.of(batch).images) * trainer.world_size
        if self.live:
            self.bar.update(self.task, completed=pl_module.updates, description="training")
        if pl_module.batches % trainer.log_every_n_steps == 0:
            self.training.plain = numbers("train", trainer.callback_metrics)
            if time.monotonic() >= self.last_line + self.pause:
                self.last_line = time.monotonic()
                text = history("train", trainer.callback_metrics)
                self._say(pl_module, " · ".join([text, *self._rates(pl_module)]))

    def _rates(self, module: pl.LightningModule) -> list[str]:
        """Images in a second since the last line, and the time left by the updates of this attempt."""
        now = time.monotonic()
        seconds = now - self.counted_from - self.spent
        parts = [f"{self.images / seconds:,.3g} images/s"] if seconds > 0 else []
        self.counted_from, self.images, self.spent = now, 0, 0.0
        if done := module.updates - self.first:
            left = (module.schedule.updates - module.updates) * (now - self.started) / done
            parts.append(f"{duration(left)} left")
        return parts

    def _say(self, module: pl.LightningModule, text: str) -> None:
        if self.live and not self.console.is_terminal:  # a notebook's output changes in its place
            return
        total = f"{module.schedule.updates:,}"
        say(f"update {module.updates:>{len(total)},}/{total}  {text}", console=self.console)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validating = time.monotonic()
        if self.live:
            self.bar.update(self.task, description="validating")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.spent += time.monotonic() - self.validating
        if trainer.is_global_zero and trainer.state.fn == "fit":
            self.validation.plain = numbers("val", trainer.callback_metrics)
            self._say(pl_module, f"held out: {history('val', trainer.callback_metrics)}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.live:
            if self.console.is_terminal:
                self.live.update(self.bar)  # the numbers stand above
            self.live.stop()
            self.live = None


USAGE = ("usage", "perplexity", "entropy_bits", "tokens")  # shown by usage_parts(), or only logged
FIRST, LAST = ("psnr", "psnr_bicubic", "ssim"), ("lr",)  # in a line that stays; usage follows the first, losses then
ONLY_LIVE = ("accuracy_", "images", "updates")  # what a line that stays has no room for


def numbers(prefix: str, metrics: Mapping[str, Tensor]) -> str:
    """Metrics of ``train/`` or ``val/`` in one line, codebook usage last."""
    parts = [part for _, part in _parts(prefix, metrics)]
    parts += usage_parts("codebook" if prefix == "train" else prefix, metrics)
    return f"{prefix}: " + " · ".join(parts) if parts else ""


def history(prefix: str, metrics: Mapping[str, Tensor]) -> str:
    """The main metrics of ``train/`` or ``val/`` in one line: PSNR, usage, losses, learning rate."""
    parts = [(name, part) for name, part in _parts(prefix, metrics) if not name.startswith(ONLY_LIVE)]
    parts = [(name, part) for name, part in parts if not name.endswith("_scale")]
    usage = usage_parts("codebook" if prefix == "train" else prefix, metrics)
    usage = [re.sub(r" \([\d,]+ tokens\)", "", part) for part in usage if not part.startswith("perplexity")]
    first = [part for wanted in FIRST for name, part in parts if name == wanted]
    last = [part for wanted in LAST for name, part in parts if name == wanted]
    losses = [part for name, part in parts if name not in (*FIRST, *LAST)]
    return " · ".join([*first, *usage, *losses, *last])


def _parts(prefix: str, metrics: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Names and texts of the metrics of a group, without those of codebooks."""
    parts = []
    for key, value in metrics.items():
        group, _, name = key.partition("/")
        if group != prefix or name.startswith(USAGE) or name.endswith(("_step", "_epoch", "images")):
            continue
        value = float(value)
        parts.append((name, f"{name} {value:.2f} dB" if name.startswith("psnr") else f"{name} {value:.4g}"))
    return parts


def usage_parts(group: str, metrics: Mapping[str, Tensor]) -> list[str]:
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
