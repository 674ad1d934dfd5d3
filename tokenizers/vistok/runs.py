"""Where a run lives, and the checkpoint that it goes on from."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from vistok import checkpoints, locks
from vistok.terminal import say
from vistok.untrusted import one_line, read_safetensors

if TYPE_CHECKING:
    from vistok.training import LitTokenizer

LAST = Path("checkpoints") / "last.ckpt"
SLIM = Path("checkpoints") / "slim.safetensors"
EXPORTED = "model.safetensors"  # of an exported folder: heads are folded, so that it fits a config with quantizer=vq
METRICS = "metrics.json"  # written last, when a run is closed
OWN = ("encoder.levels.", "encoder.transformer.blocks.")  # names that our encoders have and no published one
SETTINGS = (  # arguments on which weights depend without a shape that tells
    *("class", "cosine", "num_heads", "heads", "activation", "positions", "patch", "norm_groups", "groups"),
    *("scale", "shift", "thresholds", "low", "high"),
)


def checkpoint_of(config: DictConfig) -> Path | None:
    """The checkpoint that ``ckpt`` asks for: that file, or with ``auto`` the newest whole one of the run's folder.

    The folder is ``run_dir``, or else the newest below ``runs/NAME``.

    Returns:
        None where nothing is asked for, or ``auto`` finds nothing to go on from.
    """
    if config.ckpt != "auto":
        return Path(config.ckpt) if config.ckpt else None
    folder = Path(config.run_dir) if config.run_dir else newest_run(Path("runs") / str(config.name))
    return checkpoints.newest_valid(folder / LAST, _say) if folder else None


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


def save_slim(lit: "LitTokenizer", path: Path) -> None:
    """Write what is needed to share a tokenizer or train it further: the weights that are evaluated, heads unfolded."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in lit.evaluated.state_dict().items()}
    safetensors.torch.save_file(weights, path)


def load_slim(
    lit: "LitTokenizer", path: Path, family: str | None = None, family_config: Mapping[str, Any] | None = None
) -> None:
    """Begin a training run with the weights of a run, an exported folder, ``slim.safetensors`` or a published file.

    Optimizers, schedule and discriminator begin anew, so that the discriminator starts at ``adversarial_start`` again.

    Args:
        lit: The module to train.
        path: The file or folder.
        family: A published file's, as for ``vistok.load``.
        family_config: What else its keys do not tell.

    Raises:
        ValueError: It is not there, cannot be read, or has other names, shapes or settings; the message says which.
    """
    if path.is_dir():
        path = path / (EXPORTED if (path / EXPORTED).is_file() else SLIM)
    if not path.is_file():
        raise ValueError(f"init={path} is not a file")
    weights = None
    if path.suffix == ".safetensors":
        try:
            weights = read_safetensors(path).tensors
        except ValueError as error:
            raise ValueError(f"init={path} cannot be read: {error}") from error
    if weights is None or not any(name.startswith(OWN) for name in weights):
        weights = _published(lit, path, family, family_config)
    _refuse_differences(f"init={path}", weights, lit.tokenizer.state_dict())
    lit.tokenizer.load_state_dict(weights)
    if lit.average is not None:
        lit.average.tokenizer.load_state_dict(weights)


def _published(
    lit: "LitTokenizer", path: Path, family: str | None, family_config: Mapping[str, Any] | None
) -> Mapping[str, Tensor]:
    """The weights of a published file, whose settings must be the config's where no shape tells them."""
    from vistok.export import hub
    from vistok.export.checkpoints import load

    theirs = load(path, family, family_config)
    _refuse_differences(f"init={path}", theirs.state_dict(), lit.tokenizer.state_dict())
    there, here = (settings(hub.describe(tokenizer)) for tokenizer in (theirs, lit.tokenizer))
    differences = [f"{name} is {value!r} in the file, {here[name]!r} here"
                   for name, value in there.items() if name in here and here[name] != value]  # fmt: skip
    if differences:
        raise ValueError(f"init={path} does not fit the config: {'; '.join(differences)}")
    return theirs.state_dict()


def settings(description: dict[str, Any], path: str = "tokenizer") -> dict[str, Any]:
    """From what ``hub.describe`` gives: what weights depend on and their shapes do not show, by its place."""
    found = {f"{path}.{name}": value for name, value in description.items() if name in SETTINGS}
    for name, value in description.items():
        members = dict(enumerate(value)) if isinstance(value, list) else {"": value}
        for i, member in members.items():
            if isinstance(member, dict) and name != "estimator":
                found |= settings(member, f"{path}.{name}{i}")
    return found


def check_checkpoint(lit: "LitTokenizer", path: Path) -> None:
    """Refuse a checkpoint that is not there, is of a finished run, or does not fit: before any data is read.

    It may have made all updates: a run can be killed after its last checkpoint and before its export.

    Raises:
        ValueError: The message names the keys and shapes that differ.
    """
    checkpoint = checkpoints.read(path)
    updates = checkpoint["updates"]
    if updates >= lit.schedule.updates and _updates_of_report(path.parent.parent / METRICS) >= updates:
        raise ValueError(f"ckpt={path} has made all of its updates: {updates}; raise updates= to go on")
    _refuse_differences(f"ckpt={path}", checkpoint["state_dict"], lit.saved(lit.state_dict()))


def _updates_of_report(path: Path) -> int:
    """After how many updates a run was closed; 0 if it was not."""
    try:
        return int(json.loads(path.read_text())["updates"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _shape(tensor: Tensor) -> tuple[int | torch.dtype, ...]:
    """The sizes of a tensor, and its type where it has no real numbers."""
    return (*tensor.shape, *(() if tensor.is_floating_point() else (tensor.dtype,)))


def _refuse_differences(file: str, weights: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
    there = {one_line(key, 100): _shape(value) for key, value in weights.items()}
    here = {key: _shape(value) for key, value in model.items()}
    differences = [
        f"  {key}: {there[key]} in the file, {here[key]} here"
        for key in here
        if key in there and here[key] != there[key]
    ]
    differences += [f"  {key}: only in the config's model, {here[key]}" for key in here if key not in there]
    differences += [f"  {key}: only in the file, {there[key]}" for key in there if key not in here]
    if differences:
        more = f"\n  and {len(differences) - 10} more" if len(differences) > 10 else ""
        raise ValueError(f"{file} does not fit the config:\n" + "\n".join(differences[:10]) + more)


def _say(text: str) -> None:
    if rank_zero_only.rank == 0:
        say(text, "yellow")
