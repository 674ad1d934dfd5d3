"""The folder of a run, and the checkpoint that the run goes on from."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from vistok.processes import locks
from vistok.terminal import say
from vistok.training import checkpoint_io

LAST = Path("checkpoints") / "last.ckpt"
METRICS = "metrics.json"  # written last, when a run is closed


def checkpoint_of(config: DictConfig) -> Path | None:
    """The checkpoint that ``ckpt`` asks for: that file, or with ``auto`` the newest whole one of the run's folder.

    The folder is ``run_dir``, or else the newest below ``runs/NAME``.

    Returns:
        None where nothing is asked for, or ``auto`` finds nothing to go on from.
    """
    if config.ckpt != "auto":
        return Path(config.ckpt) if config.ckpt else None
    folder = Path(config.run_dir) if config.run_dir else newest_run(Path("runs") / str(config.name))
    return checkpoint_io.newest_valid(folder / LAST, _say) if folder else None


def newest_run(parent: Path) -> Path | None:
    """The newest run below a folder that has a checkpoint."""
    found = [run for run in parent.glob("*") if any((run / LAST.parent).glob("*.ckpt"))]
    return max(found, key=lambda run: (run / LAST.parent).stat().st_mtime) if found else None


def existing_folder(config: DictConfig) -> Path | None:
    """The folder that there is already of a run that goes on, or that a new one would overwrite; None for a new one."""
    if config.run_dir is not None:
        folder = Path(config.run_dir)
    elif config.ckpt == "auto":
        folder = newest_run(Path("runs") / str(config.name))
    else:
        folder = _own(Path(config.ckpt)) if config.ckpt else None
    return folder if folder and folder.is_dir() else None


@contextmanager
def locked(folder: Path, take_over: bool) -> Iterator[None]:
    """Keep others off a run's folder, which is made if need be: rank 0 does so for all."""
    if rank_zero_only.rank != 0:
        yield
        return
    with locks.held(folder / locks.NAME, f"run_dir={folder}", take_over, "take_over=true"):
        yield


def folder_of(config: DictConfig, checkpoint: Path | None) -> tuple[Path, bool]:
    """The folder of this run: made by rank 0, which alone writes to it; never one that holds another run.

    A run that goes on from a checkpoint of its own folder stays there. With ``ckpt=auto`` so does one that was killed
    before its first checkpoint.

    Returns:
        The folder, and whether it was made.
    """
    own = _own(checkpoint) if checkpoint else None
    if config.run_dir is None and own:
        return own, False
    run = Path(config.run_dir or Path("runs") / str(config.name) / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if rank_zero_only.rank != 0 or (own and run.resolve() == own.resolve()):
        return run, False
    if config.run_dir is not None and _is_taken(run) and not (config.ckpt == "auto" and _was_killed_early(run)):
        raise ValueError(f"run_dir={run} exists already and is not overwritten; ckpt=auto continues it")
    first, n = run, 1
    while True:
        try:
            run.mkdir(parents=True)
            return run, True
        except FileExistsError:  # two runs may start in the same second
            if config.run_dir is not None:
                return run, False
            n += 1
            run = first.with_name(f"{first.name}_{n}")
        except OSError as error:
            raise ValueError(f"run_dir={run}: {error.strerror}") from error


@contextmanager
def unmade(folder: Path, made: bool) -> Iterator[None]:
    """Where the block raises, a folder that was made for it is removed."""
    try:
        yield
    except BaseException:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _own(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint is of, if it lies where runs have theirs."""
    return checkpoint.parent.parent if checkpoint.parent.name == LAST.parent.name else None


def _is_taken(run: Path) -> bool:
    """Whether there is a file in it, or it is one: a run killed at once leaves empty folders, and its lock."""
    if not run.exists():
        return False
    return not run.is_dir() or any(not path.is_dir() and path.name != locks.NAME for path in run.rglob("*"))


def _was_killed_early(run: Path) -> bool:
    """Whether a folder is that of a run that has written its config and nothing that could be lost."""
    return (run / "config.yaml").is_file() and not any((run / LAST.parent).glob("*.ckpt"))


def _say(text: str) -> None:
    if rank_zero_only.rank == 0:
        say(text, "yellow")
