"""What a run shows and keeps besides its numbers: progress, pictures, checkpoints."""

import json
import math
import os
import re
import signal
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from rich import get_console
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor
from torch.utils.data import IterableDataset

from vistok import signals
from vistok.checkpoints import last_one
from vistok.data.images import Batch
from vistok.metrics_file import goes_on_in, validation_follows
from vistok.pictures import codebook_plot, reconstruction_grid
from vistok.pixels import to_uint8
from vistok.ranks import sum_over_ranks
from vistok.runs import LAST
from vistok.terminal import say
from vistok.updates import Outcome


class ProgressLine(pl.Callback):
    """A live bar with losses, PSNR, codebook usage, perplexity and time left; plain lines where there is no terminal.

    Numbers are read at logging intervals only: each time costs a wait for the GPU.

    Args:
        pause: Least seconds between two plain lines.
    """

    def __init__(self, pause: float = 10.0):
        self.pause, self.console = pause, get_console()  # others' too: what they print stands above the bar
        self.live: Live | None = None
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
        if self.console.is_terminal:
            self.live = Live(Group(self.bar, self.training, self.validation), console=self.console)
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


USE = ("usage", "perplexity", "entropy_bits", "tokens")  # what use() shows, or leaves to the logs


def numbers(prefix: str, metrics: dict[str, Tensor]) -> str:
    """The metrics of ``train/`` or ``val/`` in one line, codebook use last."""
    parts = []
    for key, value in metrics.items():
        group, _, name = key.partition("/")
        if group != prefix or name.startswith(USE) or name.endswith(("_step", "_epoch", "images")):
            continue
        value = float(value)
        parts.append(f"{name} {value:.2f} dB" if name.startswith("psnr") else f"{name} {value:.4g}")
    parts += use("codebook" if prefix == "train" else prefix, metrics)
    return f"{prefix}: " + " · ".join(parts) if parts else ""


def use(group: str, metrics: dict[str, Tensor]) -> list[str]:
    """Usage and perplexity of every codebook, from the metrics of ``codebook/`` or ``val/``; which have collapsed."""
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


class Pictures(pl.Callback):
    """Writes ``reconstructions.png`` and ``codebook.png`` at every validation, and hands them to the loggers.

    The images shown are spread evenly over the validation set, the same ones every time; of a stream the first ones.

    Args:
        folder: Where to.
        columns: Images shown.
    """

    def __init__(self, folder: Path, columns: int = 8):
        self.folder, self.columns = folder, columns
        self.pairs: list[tuple[Tensor, Tensor]] = []  # original and reconstruction, uint8
        self.keep: list[Tensor] = []  # for a dynamic head: which positions of these are tokens

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pairs, self.keep = [], []

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict[str, Tensor], batch: Batch, index: int
    ) -> None:
        loader = trainer.val_dataloaders
        if outputs is None:
            return
        images = Batch.of(batch).images
        if isinstance(loader.dataset, IterableDataset):
            chosen = list(range(min(self.columns - len(self.pairs), len(images))))
        else:
            total = min(len(loader.sampler), trainer.num_val_batches[0] * loader.batch_size)
            shown = {i * total // self.columns for i in range(min(self.columns, total))}
            first = index * loader.batch_size
            chosen = [i - first for i in sorted(shown) if first <= i < first + len(images)]
        self.pairs += zip(to_uint8(images[chosen]), to_uint8(outputs["reconstruction"][chosen]), strict=True)
        self.keep += [] if outputs["keep"] is None else outputs["keep"][chosen]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        counts = pl_module.metrics.usage.counts  # of all ranks, since the validation has ended
        if not trainer.is_global_zero or not self.pairs:
            return
        images, reconstructions = (torch.stack(side) for side in zip(*self.pairs, strict=True))
        metrics = trainer.callback_metrics
        caption = f"after {pl_module.updates:,} updates: PSNR {metrics['val/psnr']:.2f} dB over the validation images"
        pictures = {
            "reconstructions": reconstruction_grid(images, reconstructions, caption, self.keep),
            "codebook": codebook_plot(counts, [part.name for part in pl_module.metrics.usage.parts]),
        }
        for name, picture in pictures.items():
            picture.save(self.folder / f"{name}.png")
        for logger in trainer.loggers:
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            if isinstance(logger, WandbLogger):
                for name, picture in pictures.items():
                    logger.log_image(name, [picture], step=step)
                _log_histograms(logger, counts, step)
            elif isinstance(logger, TensorBoardLogger):
                for name, picture in pictures.items():
                    logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")


def _log_histograms(logger: WandbLogger, counts: Sequence[Tensor], step: int) -> None:
    import wandb

    for i, of_codebook in enumerate(counts):
        histogram = np.histogram(np.log10(of_codebook.cpu().numpy() + 1.0), bins=64)
        logger.experiment.log({f"codebook_{i}/log10_counts": wandb.Histogram(np_histogram=histogram)}, commit=False)


CALMER = "What to try: a lower optimizer.lr, a longer schedule.warmup, a smaller clip"


class NotFinite(ValueError):
    """Losses, gradients or weights are not finite and do not become so again."""


class FiniteWatch(pl.Callback):
    """Says when an update was left out since something was not finite, and stops a run that does not recover.

    Every such update adds a line to ``not_finite.jsonl``: the update, the rank, the names of the images in its last
    batch, and the value of every loss term and gradient norm. It is known at the next logging interval.

    Args:
        folder: Where to.
        patience: So many updates left out in a row stop the run.
    """

    def __init__(self, folder: Path, patience: int = 10):
        self.folder, self.patience = folder, patience
        self.in_a_row = 0
        self.names: list[list[str]] = []  # of the images in the last batch of each update whose outcome is not known

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.folder = trainer.strategy.broadcast(self.folder)  # named after the time, which each rank reads for itself

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if pl_module.batches % pl_module.accumulate == 0:
            self.names.append(trainer.datamodule.names)
        self._hear_all(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._hear_all(trainer, pl_module)
        checkpoint["not_finite_in_a_row"] = self.in_a_row

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.in_a_row = checkpoint.get("not_finite_in_a_row", 0)  # earlier checkpoints do not have it

    def _hear_all(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for outcome in module.take_outcomes():
            self._hear(outcome, self.names.pop(0), trainer)

    def _hear(self, outcome: Outcome, images: list[str], trainer: pl.Trainer) -> None:
        self.in_a_row = self.in_a_row + 1 if outcome.left_out else 0
        if not outcome.left_out:
            return
        wrong = {name: value for name, value in outcome.left_out.items() if not math.isfinite(value)}
        line = {"update": outcome.update, "rank": trainer.global_rank, "images": images}
        with (self.folder / "not_finite.jsonl").open("a") as file:
            values = {name: str(value) for name, value in outcome.left_out.items()}
            file.write(json.dumps(line | {"values": values}) + "\n")
        told = ", ".join(wrong) or "something on another rank"
        if trainer.is_global_zero:
            text = f"update {outcome.update:,} was left out: {told} not finite; see {self.folder}/not_finite.jsonl"
            say(text, "yellow")
        if self.in_a_row >= self.patience:
            last = last_one(self.folder / LAST)
            raise NotFinite(f"{self.in_a_row} updates in a row were not finite ({told}); {last}. {CALMER}")


class LastCheckpoint(pl.Callback):
    """Keeps ``last.ckpt``: written before every validation, every so many updates, and when the run is interrupted.

    Nothing is written where no update was made since the last time, nor weights that are not finite.

    Ctrl-C (SIGINT), SIGTERM, SIGHUP, which a terminal sends when it is closed, and SIGUSR1 and SIGUSR2, which
    schedulers send before they kill, let the batch finish, save and raise ``signals.Interrupted``; a validation is left
    at once and done again by the resumed run. With several ranks one of them is enough, and they agree on it at logging
    intervals and after validations. A second Ctrl-C quits at once. A signal that was ignored stays so: ``nohup``.

    Args:
        path: Where to.
        every: Updates; None saves before validations only.
    """

    def __init__(self, path: Path, every: int | None = None):
        self.path, self.every = path, every
        self.written: int | None = None  # updates in the checkpoint that the run began with or wrote last
        self.ahead = 0  # updates that a signal's save learned of early: they were left out
        self.received = 0  # the signal's number
        self.former: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not earlier: Lightning sets its own handler for SIGTERM after on_fit_start.
        ours = [number for number in signals.NUMBERS if signal.getsignal(number) != signal.SIG_IGN]
        self.former = {number: signal.signal(number, self._receive) for number in ours}

    def _receive(self, number: int, frame: Any) -> None:
        self.received = number
        signal.signal(signal.SIGINT, self.former.get(signal.SIGINT, signal.SIG_IGN))
        if number == signal.SIGHUP:
            leave_closed_terminal()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if pl_module.batches % pl_module.accumulate:
            return
        received = self._of_any_rank(trainer, pl_module)
        due = validation_follows(trainer, pl_module) or self._every(pl_module)
        if received or due:
            ahead = pl_module.settle()
            self.ahead = 0 if due else ahead
        if received or (pl_module.updates and (validation_follows(trainer, pl_module) or self._every(pl_module))):
            self._save(trainer, pl_module)
        if received:
            raise signals.Interrupted(received)

    def _every(self, module: pl.LightningModule) -> bool:
        return self.every is not None and module.updates % self.every == 0

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if module.updates == self.written:
            return
        wrong = module.not_finite()
        if sum_over_ranks(torch.tensor(float(len(wrong)), device=module.device)):
            told = f"{', '.join(wrong[:3]) or 'weights of another rank'} not finite after {module.updates:,} updates"
            raise NotFinite(f"{told}, which is not saved; {last_one(self.path)}. {CALMER}")
        trainer.save_checkpoint(self.path, weights_only=False)
        self.written = module.updates

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["ahead"] = self.ahead

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.written = checkpoint["updates"] if goes_on_in(self.path.parent, trainer) else None

    def _of_any_rank(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> int:
        """The signal that this or another rank received, or 0: asking costs a message."""
        if trainer.world_size == 1:
            return self.received
        if pl_module.batches % trainer.log_every_n_steps:
            return 0
        return self._agreed(trainer, pl_module)

    def _agreed(self, trainer: pl.Trainer, module: pl.LightningModule) -> int:
        return int(trainer.strategy.reduce(torch.tensor(self.received, device=module.device), reduce_op="max"))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.world_size == 1 and self.received:  # what came before the validation is saved
            raise signals.Interrupted(self.received)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        received = self._agreed(trainer, pl_module) if trainer.world_size > 1 else self.received
        if received:
            raise signals.Interrupted(received)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            for number, former in self.former.items():
                signal.signal(number, former)


def leave_closed_terminal() -> None:
    """Let go of standard output and error where they are a terminal that was closed: to print there is an error."""
    for descriptor in (1, 2):
        with suppress(OSError):  # it may not be open at all
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
