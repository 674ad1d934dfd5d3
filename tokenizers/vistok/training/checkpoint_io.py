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

PARTS = {"updates", "batches", "state_dict"}  # what a checkpoint of train.py has
# What torch's writer makes of an error of the file system; other RuntimeErrors have nothing to do with the file.
WRITER = re.compile(r"PytorchStreamWriter|inline_container|iostream|file write failed|unexpected pos")


class CheckpointNotWritten(OSError):
    """The disk is full or the folder cannot be written to; earlier checkpoints are as they were."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the former one and then, whole and on disk, puts it in its place.

    Former ones are kept as ``last.1.ckpt``, ``last.2.ckpt`` and so on, the newest first. At every moment each of these
    names is a whole checkpoint or not there.

    Args:
        keep: Checkpoints in all, at least 1.
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
    """Handle a signal after the block, if it comes within.

    Where a loader process dies, torch's handler of SIGCHLD raises an error at whatever the training process is doing.
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
    """Make the checkpoint at ``path`` the first of the former ones, and drop those beyond ``keep`` - 1."""
    former = [older(path, i) for i in range(1, keep)]
    if not former or not path.exists() or (former[0].exists() and former[0].samefile(path)):
        return  # nothing to keep, or a process was killed here and the last is the first of the former ones already
    for newer, old in reversed(list(zip(former, former[1:], strict=False))):
        if newer.exists():
            os.replace(newer, old)
    second_name = path.with_name(f".{former[0].name}.partial")
    second_name.unlink(missing_ok=True)
    try:
        os.link(path, second_name)  # path itself is there all the time
    except OSError:  # a file system without links
        shutil.copy2(path, second_name)
    os.replace(second_name, former[0])


def older(path: Path, i: int) -> Path:
    """The name of the i-th checkpoint before the one at ``path``."""
    return path if i == 0 else path.with_name(f"{path.stem}.{i}{path.suffix}")


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of ``train.py``, its tensors mapped from the file rather than read.

    Raises:
        ValueError: It is not there, or is none.
    """
    if not path.is_file():
        raise ValueError(f"ckpt={path} is not a file")
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise ValueError(f"ckpt={path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or not set(checkpoint) >= PARTS:
        raise ValueError(f"ckpt={path} is not a checkpoint of a run of train.py")
    return checkpoint


def last_one(path: Path) -> str:
    """Which checkpoint there is to go on from at ``path``, in words."""
    try:
        newest = newest_valid(path, say=lambda text: None)
    except ValueError as error:
        return str(error)
    if newest is None:
        return "no checkpoint has been written yet"
    return f"the last checkpoint, {newest}, has {read(newest)['updates']:,} updates"


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, every byte of it checked; None if nothing is."""
    try:
        read(path)
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        return str(error)
    return None if broken is None else f"its part {broken} is not what was written"


def newest_valid(path: Path, say: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint among ``path`` and those before it, or None if there is no file at all.

    Args:
        path: The newest one, ``last.ckpt``.
        say: Told of each damaged one that is passed over.

    Raises:
        ValueError: There are some, all damaged.
    """
    candidates, i = [], 0
    while i == 0 or older(path, i).exists():
        candidates += [older(path, i)] if older(path, i).exists() else []
        i += 1
    for candidate in candidates:
        problem = damage(candidate)
        if problem is None:
            return candidate
        say(f"{candidate} is damaged and passed over: {problem}")
    if candidates:
        raise ValueError(f"all {len(candidates)} checkpoints in {path.parent} are damaged")
    return None
