"""Weights without optimizer states: written at the end of a run, read at the start of another."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vistok.formats import native
from vistok.formats.load import load
from vistok.formats.tokenizer_paths import weights_to_train
from vistok.training import checkpoint_io
from vistok.training.channel_adaptation import adapted
from vistok.training.run_folder import METRICS
from vistok.untrusted.bounded_json import one_line, read_object
from vistok.untrusted.tensor_files import read_safetensors, write_safetensors

if TYPE_CHECKING:
    from vistok.training.module import LitTokenizer


OUR_NAMES = (
    "encoder.levels.",
    "encoder.transformer.blocks.",
)  # prefixes of names that only our encoders have
SETTINGS = (  # arguments on which weights depend, but not their shapes
    *("class", "cosine", "num_heads", "heads", "activation", "positions", "patch", "norm_groups", "groups"),
    *("scale", "shift", "thresholds", "low", "high", "spherical", "num_codebooks"),
    *("phi_ratio", "upsampling", "factors"),
)


def save_slim(lit: "LitTokenizer", path: Path) -> None:
    """Writes the weights to share a tokenizer or to train it further: those that are evaluated, with heads unfolded."""
    write_safetensors(lit.evaluated.state_dict(), path)


def load_slim(
    lit: "LitTokenizer", path: Path, family: str | None = None, family_config: Mapping[str, Any] | None = None
) -> None:
    """Initialises a run from the weights of a run, an exported folder, ``slim.safetensors`` or a published file.

    Weights of a tokenizer of RGB images are adapted to other channels, see ``channel_adaptation``. Optimizers, schedule
    and discriminator start anew; the discriminator starts at ``optim.adversarial_start`` again.

    Args:
        lit: The module to train.
        path: The file or folder.
        family: Family of a published file, as for ``vistok.load``.
        family_config: Settings that its keys do not determine.

    Raises:
        ValueError: The file does not exist, is unreadable, or has other names, shapes or settings; the message names
            them.
    """
    file = weights_to_train(path)
    if not file.is_file():
        raise ValueError(f"model.init={file} is not a file")
    weights = None
    if file.suffix == ".safetensors":
        try:
            weights = read_safetensors(file).tensors
        except ValueError as error:
            raise ValueError(f"model.init={file} cannot be read: {error}") from error
    if weights is None or not any(name.startswith(OUR_NAMES) for name in weights):
        weights = _published(lit, path, family, family_config)
    weights = adapted(weights, lit.tokenizer.state_dict(), lit.view)
    _refuse_differences(f"model.init={file}", weights, lit.tokenizer.state_dict())
    lit.tokenizer.load_state_dict(weights)
    if lit.average is not None:
        lit.average.tokenizer.load_state_dict(weights)


def _published(
    lit: "LitTokenizer", path: Path, family: str | None, family_config: Mapping[str, Any] | None
) -> Mapping[str, Tensor]:
    """Weights of a published file, whose settings must equal the config's where shapes do not determine them."""
    theirs = load(path, family, family_config)
    ours = lit.tokenizer.state_dict()
    _refuse_differences(f"model.init={path}", adapted(theirs.state_dict(), ours, lit.view), ours)
    there, here = (settings(native.describe(tokenizer)) for tokenizer in (theirs, lit.tokenizer))
    differences = [f"{name} is {value!r} in the file, {here[name]!r} here"
                   for name, value in there.items() if name in here and here[name] != value]  # fmt: skip
    if differences:
        raise ValueError(f"model.init={path} does not fit the config: {'; '.join(differences)}")
    return theirs.state_dict()


def settings(description: dict[str, Any], path: str = "tokenizer") -> dict[str, Any]:
    """Settings in a description of ``native.describe`` on which weights depend but not their shapes, by dotted path."""
    found: dict[str, Any] = {}
    for name, value in description.items():
        members = dict(enumerate(value)) if isinstance(value, list) else {"": value}
        parts = {i: member for i, member in members.items() if isinstance(member, dict)}
        if name in SETTINGS and not parts:
            found[f"{path}.{name}"] = value
        for i, part in parts.items() if name != "estimator" else ():
            found |= settings(part, f"{path}.{name}{i}")
    return found


def check_checkpoint(lit: "LitTokenizer", path: Path) -> None:
    """Refuses a checkpoint that does not exist, is of a finished run, or does not fit, before any data is read.

    It may have all updates of the run: a run can be killed after its last checkpoint and before its export.

    Raises:
        ValueError: The message names the keys and shapes that differ.
    """
    checkpoint = checkpoint_io.read(path)
    updates = checkpoint["updates"]
    if updates >= lit.schedule.updates and _updates_of_report(path.parent.parent / METRICS) >= updates:
        raise ValueError(f"run.resume={path} has made all of its updates: {updates}; raise optim.updates= to continue")
    _refuse_differences(f"run.resume={path}", checkpoint["state_dict"], lit.saved(lit.state_dict()))


def _updates_of_report(path: Path) -> int:
    """Number of updates of a finished run; 0 if it is not finished."""
    try:
        return int(read_object(path)["updates"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _shape(tensor: Tensor) -> tuple[int | torch.dtype, ...]:
    """Shape of a tensor, with its dtype if it does not hold real numbers."""
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
