"""Folder of a run, and the checkpoint from which the run resumes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from yaml import YAMLError

from vistok.processes import locks
from vistok.terminal import say
from vistok.training import checkpoint_io

LAST = Path("checkpoints") / "last.ckpt"
METRICS = "metrics.json"  # written last, when a run is closed


def checkpoint_of(config: DictConfig) -> Path | None:
    """Checkpoint that ``run.resume`` selects: that file, or for ``auto`` the newest undamaged one of the run's folder.

    The folder is ``run.dir``, or else the newest below ``runs/NAME``.

    Returns:
        None if ``run.resume`` is not set, or ``auto`` finds no checkpoint.
    """
    if config.run.resume != "auto":
        return Path(config.run.resume) if config.run.resume else None
    folder = existing_folder(config)
    if folder is None and config.run.dir is None:
        _say(f"run.resume=auto: there is no run in {_parent(config)} to resume; a new one begins")
    return checkpoint_io.newest_valid(folder / LAST, _say) if folder else None


def _parent(config: DictConfig) -> Path:
    return Path("runs") / str(config.run.name)


def _time() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def new_folder(config: DictConfig) -> Path:
    """Folder ``runs/NAME/TIME`` that does not exist yet; it is not created."""
    first = run = _parent(config) / _time()
    n = 1
    while run.exists():  # a run of the same second
        n += 1
        run = first.with_name(f"{first.name}_{n}")
    return run


def newest_run(config: DictConfig) -> Path | None:
    """Newest run of this name that has a checkpoint and was not trained on another folder of images."""
    runs = _parent(config).glob("*")
    found = [run for run in runs if any((run / LAST.parent).glob("*.ckpt")) and not _has_other_images(run, config)]
    return max(found, key=lambda run: (run / LAST.parent).stat().st_mtime) if found else None


def _has_other_images(run: Path, config: DictConfig) -> bool:
    """True if a run's ``data.root`` still exists and is another one; folders of one name may be in several places."""
    try:
        theirs = OmegaConf.select(OmegaConf.load(run / "config.yaml"), "data.root")
    except (OSError, YAMLError):
        return False
    ours = OmegaConf.select(config, "data.root", throw_on_missing=False)
    if not isinstance(theirs, str) or not isinstance(ours, str) or not Path(theirs).exists():
        return False
    return Path(theirs).resolve() != Path(ours).resolve()


def existing_folder(config: DictConfig) -> Path | None:
    """Existing folder of a run that resumes, or that a new run would overwrite; None for a new run."""
    if config.run.dir is not None:
        folder = Path(config.run.dir)
    elif config.run.resume == "auto":
        folder = newest_run(config)
    else:
        folder = run_of_checkpoint(Path(config.run.resume)) if config.run.resume else None
    return folder if folder and folder.is_dir() else None


@contextmanager
def locked(folder: Path, take_over: bool) -> Iterator[None]:
    """Locks a run's folder, which is created if it does not exist; rank 0 does so for all ranks."""
    if rank_zero_only.rank != 0:
        yield
        return
    with locks.held(folder / locks.NAME, f"run.dir={folder}", take_over, "run.take_over=true"):
        yield


def folder_of(config: DictConfig, checkpoint: Path | None) -> tuple[Path, bool]:
    """Folder of this run, created by rank 0, which alone writes to it; never one that holds another run.

    A run that resumes from a checkpoint in its own folder stays there. With ``run.resume=auto`` so does a run that was
    killed before its first checkpoint.

    Returns:
        The folder, and True if it was created.
    """
    own = run_of_checkpoint(checkpoint) if checkpoint else None
    if config.run.dir is None and own:
        return own, False
    run = Path(config.run.dir or _parent(config) / _time())
    if rank_zero_only.rank != 0 or (own and run.resolve() == own.resolve()):
        return run, False
    if config.run.dir is not None and _has_files(run) and not (config.run.resume == "auto" and _was_killed_early(run)):
        raise ValueError(f"run.dir={run} exists already and is not overwritten; run.resume=auto continues it")
    first, n = run, 1
    while True:
        try:
            run.mkdir(parents=True)
            return run, True
        except FileExistsError:  # two runs may start in the same second
            if config.run.dir is not None:
                return run, False
            n += 1
            run = first.with_name(f"{first.name}_{n}")
        except OSError as error:
            raise ValueError(f"run.dir={run}: {error.strerror}") from error


@contextmanager
def removed_on_error(folder: Path, created: bool) -> Iterator[None]:
    """Removes a folder that was created for the block if the block raises."""
    try:
        yield
    except BaseException:
        if created:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def run_of_checkpoint(checkpoint: Path) -> Path | None:
    """Folder of the run that a checkpoint belongs to, if it lies where runs have their checkpoints."""
    return checkpoint.parent.parent if checkpoint.parent.name == LAST.parent.name else None


def _has_files(run: Path) -> bool:
    """True if the path is a file or a folder with files.

    A run killed at once leaves only empty folders and its lock.
    """
    if not run.exists():
        return False
    return not run.is_dir() or any(not path.is_dir() and path.name != locks.NAME for path in run.rglob("*"))


def _was_killed_early(run: Path) -> bool:
    """True for the folder of a run that has written its config and nothing that could be lost."""
    return (run / "config.yaml").is_file() and not any((run / LAST.parent).glob("*.ckpt"))


def _say(text: str) -> None:
    if rank_zero_only.rank == 0:
        say(text, "yellow")
