"""Safetensors files: written atomically, and read within bounds where their source is unknown."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vistok.files import atomic_write
from vistok.untrusted.bounded_json import one_line

MAX_HEADER = 16 * 2**20  # largest JSON header of a safetensors file in bytes
MAX_TENSORS = 100_000


class Stored(NamedTuple):
    """Contents of a safetensors file."""

    tensors: dict[str, Tensor]  # mapped from the file
    metadata: dict[str, str]


def read_safetensors(path: Path) -> Stored:
    """Maps a safetensors file into memory.

    Tensors take no memory before their use; the file must not change until then.

    Raises:
        ValueError: The file is damaged, or has more tensors than any network. The message does not name the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8:
        raise ValueError(f"it has {size:,} bytes and is not a safetensors file")
    (header,) = struct.unpack("<Q", start)
    if header > min(MAX_HEADER, size - 8):
        raise ValueError(f"its header claims {header:,} bytes, the file has {size:,}")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            if len(names) > MAX_TENSORS:
                raise ValueError(f"it has {len(names):,} tensors, more than {MAX_TENSORS:,}")
            return Stored({name: file.get_tensor(name) for name in names}, file.metadata() or {})
    except (SafetensorError, RuntimeError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(one_line(error)) from error  # errors of the library, and of torch for unsupported types


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file atomically.

    Args:
        tensors: Tensors by name, on any device.
        path: Path of the file.
        metadata: Texts by name, for the header of the file.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as file:  # by name: as bytes it would be in memory twice
        safetensors.torch.save_file(contiguous, file.name, metadata and dict(metadata))
