"""What an evaluation keeps on disk: its state while it runs, and statistics of the images for the next one.

Both are safetensors files whose header tells what they are of.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from vistok.files import atomic_write
from vistok.untrusted.bounded_json import parse_json
from vistok.untrusted.tensor_files import read_safetensors


def write(tensors: Mapping[str, Tensor], about: Mapping, path: Path) -> None:
    """Write tensors and plain content as one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as file:  # by its name: as bytes it would be in memory once more
        safetensors.torch.save_file(held, file.name, metadata={"about": json.dumps(about)})


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """What ``write`` has written.

    Raises:
        ValueError: The file is no such file.
    """
    try:
        tensors, metadata = read_safetensors(path)
        about = parse_json(metadata.get("about", "").encode(), "what it is of")
        if type(about) is not dict:
            raise ValueError(f"what it is of is a {type(about).__name__}")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a file of an evaluation: {error}") from error
    return tensors, about
