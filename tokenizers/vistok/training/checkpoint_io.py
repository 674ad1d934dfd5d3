"""Checkpoints that a crash, a full disk or a killed process cannot spoil."""

import os
import pickle
import re
import shutil
import signal
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from vistok.files import atomic_write

PARTS = {"updates", "batches", "state_dict"}  # keys of every checkpoint of train.py
# Messages of torch's writer for errors of the file system; other RuntimeErrors are unrelated to the file.
WRITER = re.compile(r"PytorchStreamWriter|inline_container|iostream|file write failed|unexpected pos")


class CheckpointNotWritten(OSError):
    """The disk is full or the folder is not writable; earlier checkpoints are unchanged."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically: a checkpoint replaces the previous one only once all of it is on disk.

    Earlier checkpoints are kept as ``last.1.ckpt``, ``last.2.ckpt`` and so on, newest first. At every moment each of
    these names is either a complete checkpoint or does not exist.

    Args:
        keep: Number of checkpoints to keep, at least 1.
    """

    def __init__(self, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep_checkpoints must be at least 1, not {keep}")
        self.keep = keep

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with signal_deferred(signal.SIGCHLD), atomic_write(path, before=lambda: shift(path, self.keep)) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not WRITER.search(str(error)):
                raise
            free = shutil.disk_usage(path.parent).free / 2**20
            raise CheckpointNotWritten(
                f"the checkpoint {path} was not written, {free:,.0f} MiB are free: {error}; earlier ones are untouched"
            ) from error


@contextmanager
def signal_deferred(number: int) -> Iterator[None]:
    """Defers the handling of a signal to the end of the block.

    When a loader process dies, torch's handler of SIGCHLD raises an error in the middle of any statement of the
    training process.
    """
    former = signal.getsignal(number)
    if not callable(former) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[Any, ...]] = []
    signal.signal(number, lambda *arguments: came.append(arguments))
    try:
        yield
    finally:
        signal.signal(number, former)
    if came:
        former(*came[-1])


def shift(path: Path, keep: int) -> None:
    """Renames the checkpoint at ``path`` to the first of the earlier ones, and removes those beyond ``keep`` - 1."""
    former = [older(path, i) for i in range(1, keep)]
    if not former or not path.exists() or (former[0].exists() and former[0].samefile(path)):
        return  # nothing to keep, or a process was killed after os.link below and both names are the same file
    for newer, old in reversed(list(zip(former, former[1:], strict=False))):
        if newer.exists():
            os.replace(newer, old)
    second_name = path.with_name(f".{former[0].name}.partial")
    second_name.unlink(missing_ok=True)
    try:
        os.link(path, second_name)  # path itself exists at all times
    except OSError:  # a file system without links
        shutil.copy2(path, second_name)
    os.replace(second_name, former[0])


def older(path: Path, i: int) -> Path:
    """Path of the i-th checkpoint before the one at ``path``."""
    return path if i == 0 else path.with_name(f"{path.stem}.{i}{path.suffix}")


def read(path: Path) -> dict[str, Any]:
    """Loads a checkpoint of ``train.py``; its tensors are memory-mapped.

    Raises:
        ValueError: The file does not exist, or is not such a checkpoint.
    """
    if not path.is_file():
        raise ValueError(f"run.resume={path} is not a file")
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise ValueError(f"run.resume={path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or not set(checkpoint) >= PARTS:
        raise ValueError(f"run.resume={path} is not a checkpoint of a run of train.py")
    return checkpoint


def last_one(path: Path) -> str:
    """Describes, for a message, the checkpoint at ``path`` from which a run can resume."""
    try:
        newest = newest_valid(path, say=lambda text: None)
    except ValueError as error:
        return str(error)
    if newest is None:
        return "no checkpoint has been written yet"
    return f"the last checkpoint, {newest}, has {read(newest)['updates']:,} updates"


def damage(path: Path) -> str | None:
    """Checks every byte of a checkpoint; returns a description of the damage, or None."""
    try:
        read(path)
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        return str(error)
    return None if broken is None else f"its part {broken} is not what was written"


def newest_valid(path: Path, say: Callable[[str], None]) -> Path | None:
    """Finds the newest undamaged checkpoint among ``path`` and those before it; None if no file exists.

    Args:
        path: Path of the newest checkpoint, ``last.ckpt``.
        say: Called with a message for each damaged checkpoint that is skipped.

    Raises:
        ValueError: All checkpoints are damaged.
    """
    candidates, i = [], 0
    while i == 0 or older(path, i).exists():
        candidates += [older(path, i)] if older(path, i).exists() else []
        i += 1
    for candidate in candidates:
        problem = damage(candidate)
        if problem is None:
            return candidate
        say(f"{candidate} is damaged and skipped: {problem}")
    if candidates:
        raise ValueError(f"all {len(candidates)} checkpoints in {path.parent} are damaged")
    return None
