"""What an evaluation keeps on disk: its state while it runs, and statistics of the images for the next one.

Both are safetensors files whose header tells what they are of; each is written beside its place and then renamed, so
that a file is whole or not there.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vistok.evaluation.protocols import differences, digest
from vistok.metrics.frechet import FeatureStatistics


def write(tensors: Mapping[str, Tensor], about: Mapping, path: Path) -> None:
    """Write tensors and plain content as one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(held, beside, metadata={"about": json.dumps(about)})
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """What ``write`` has written.

    Raises:
        ValueError: The file is no such file.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(file.metadata()["about"])
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a file of an evaluation: {error}") from error
    return tensors, about


def save_references(path: Path, statistics: Mapping[str, FeatureStatistics], descriptions: Mapping[str, dict]) -> None:
    """Write statistics of images, each under the hash of its description.

    Args:
        path: The file; one that is there is replaced.
        statistics: By any names.
        descriptions: Of each of them: all that it depends on.
    """
    tensors, about = {}, {}
    for name, own in statistics.items():
        key = digest(descriptions[name])
        about[key] = descriptions[name]
        tensors |= {f"{key}/{part}": tensor for part, tensor in own.tensors().items()}
    write(tensors, about, path)


def load_references(path: Path, descriptions: Mapping[str, dict]) -> dict[str, FeatureStatistics]:
    """Statistics from a file, by the names that their descriptions have here.

    Args:
        path: That ``save_references`` wrote.
        descriptions: What is needed. A description without ``images`` and ``images_sha256`` fits any images.

    Raises:
        ValueError: The file is none, or lacks one of them; the message says what differs.
    """
    if not path.is_file():
        raise ValueError(f"reference={path} is not a file")
    tensors, about = read(path)
    found = {}
    for name, wanted in descriptions.items():
        fitting = [key for key, held in about.items() if all(held.get(k) == v for k, v in wanted.items())]
        if not fitting:
            nearest = min(about.values(), key=lambda held: sum(held.get(k) != v for k, v in wanted.items()))
            raise ValueError(f"reference={path} is of something else: {differences(nearest, wanted)}")
        found[name] = FeatureStatistics(len(tensors[f"{fitting[0]}/total"]))
        for part, tensor in found[name].tensors().items():
            tensor.copy_(tensors[f"{fitting[0]}/{part}"])
    return found
