"""Files of an evaluation: its state while it runs, and statistics of the images for later evaluations.

Both are safetensors files whose header describes their content.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vistok.untrusted.bounded_json import parse_json
from vistok.untrusted.tensor_files import read_safetensors, write_safetensors


def write(tensors: Mapping[str, Tensor], about: Mapping, path: Path) -> None:
    """Writes tensors and plain content as one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(tensors, path, {"about": json.dumps(about)})


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Reads a file of ``write``.

    Raises:
        ValueError: The file is not such a file.
    """
    try:
        tensors, metadata = read_safetensors(path)
        about = parse_json(metadata.get("about", "").encode(), "what it is of")
        if type(about) is not dict:
            raise ValueError(f"what it is of is a {type(about).__name__}")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a file of an evaluation: {error}") from error
    return tensors, about
