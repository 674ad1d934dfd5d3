"""Checkpoint from which a run resumes, also after a signal."""

import os
import signal
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from vistok.distributed.collectives import sum_over_ranks
from vistok.processes import signals
from vistok.training.callbacks.finite import CALMER, NotFinite
from vistok.training.callbacks.metrics_file import resumes_in, validation_follows
from vistok.training.checkpoint_io import last_one


class LastCheckpoint(pl.Callback):
    """Writes ``last.ckpt`` before every validation, every ``every`` updates, and when the run is interrupted.

    Nothing is written without a new update since the last checkpoint, nor when weights are not finite.

    On Ctrl-C (SIGINT), SIGTERM, SIGHUP, which a closed terminal sends, and SIGUSR1 and SIGUSR2, which schedulers send
    before a kill, the run finishes the batch, saves, and raises ``signals.Interrupted``; a validation stops at once,
    and the resumed run repeats it. With several ranks one signal is enough: the ranks agree at logging intervals and
    after validations. A second Ctrl-C ends the process at once. A signal that was ignored before stays ignored, for
    ``nohup``.

    Args:
        path: Path of the checkpoint.
        every: Number of updates between checkpoints; None saves only before validations.
    """

    def __init__(self, path: Path, every: int | None = None):
        self.path, self.every = path, every
        self.written: int | None = None  # updates in the checkpoint that the run started from or wrote last
        self.ahead = 0  # skipped updates that the save at a signal learned of early
        self.received = 0  # number of the received signal
        self.former: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not earlier: Lightning sets its own handler for SIGTERM after on_fit_start.
        numbers = [number for number in signals.NUMBERS if signal.getsignal(number) != signal.SIG_IGN]
        self.former = {number: signal.signal(number, self._receive) for number in numbers}

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
            names = f"{', '.join(wrong[:3]) or 'weights of another rank'} not finite after {module.updates:,} updates"
            raise NotFinite(f"{names}, which is not saved; {last_one(self.path)}. {CALMER}")
        trainer.save_checkpoint(self.path, weights_only=False)
        self.written = module.updates

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["ahead"] = self.ahead

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.written = checkpoint["updates"] if resumes_in(self.path.parent, trainer) else None

    def _of_any_rank(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> int:
        """Signal that any rank has received, or 0; asking the other ranks costs a collective."""
        if trainer.world_size == 1:
            return self.received
        if pl_module.batches % trainer.log_every_n_steps:
            return 0
        return self._agreed(trainer, pl_module)

    def _agreed(self, trainer: pl.Trainer, module: pl.LightningModule) -> int:
        return int(trainer.strategy.reduce(torch.tensor(self.received, device=module.device), reduce_op="max"))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.world_size == 1 and self.received:  # everything before the validation is saved
            raise signals.Interrupted(self.received)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        received = self._agreed(trainer, pl_module) if trainer.world_size > 1 else self.received
        if received:
            raise signals.Interrupted(received)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, former in self.former.items():
            if signal.getsignal(number) == self._receive:  # else Lightning has restored an earlier handler
                signal.signal(number, former)


def leave_closed_terminal() -> None:
    """Redirects standard output and error to nowhere if their terminal was closed: printing there is an error."""
    for descriptor in (1, 2):
        with suppress(OSError):  # it may not be open at all
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
