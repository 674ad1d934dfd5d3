"""Safetensors files: atomic writing, and reading with limits on size, since a file may come from anyone."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vistok.files import atomic_write
from vistok.untrusted.bounded_json import one_line

MAX_HEADER = 16 * 2**20  # largest accepted JSON header, in bytes
MAX_TENSORS = 100_000  # most tensors in an accepted file


class TensorFile(NamedTuple):
    """Contents of a safetensors file."""

    tensors: dict[str, Tensor]  # on the CPU, mapped from the file into memory
    metadata: dict[str, str]  # texts of the header; empty if it has none


def read_safetensors(path: Path) -> TensorFile:
    """Maps a safetensors file into memory.

    A tensor takes no memory until it is first used. The file must not change as long as the tensors are in use.

    Raises:
        ValueError: The file is damaged, has a header of more than 16 MiB, or has more than 100,000 tensors. The message
            does not name the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = file.read(8)
    if len(length) < 8:
        raise ValueError(f"it has {size:,} bytes and is not a safetensors file")
    (header,) = struct.unpack("<Q", length)  # bytes of the header
    if header > min(MAX_HEADER, size - 8):
        raise ValueError(
            f"its header claims {header:,} bytes; the limit is {MAX_HEADER:,}, and the file has {size:,} in all"
        )
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            if len(names) > MAX_TENSORS:
                raise ValueError(f"it has {len(names):,} tensors, more than {MAX_TENSORS:,}")
            return TensorFile({name: file.get_tensor(name) for name in names}, file.metadata() or {})
    except (SafetensorError, RuntimeError, TypeError, KeyError, AttributeError, OverflowError) as error:
        broken = "; it is truncated or damaged" if "incomplete" in str(error).lower() else ""
        raise ValueError(one_line(error) + broken) from error  # from safetensors, or torch for an unsupported dtype


def metadata_of(path: Path) -> dict[str, str]:
    """Texts in the header of a safetensors file; empty for other files.

    Raises:
        ValueError: The header is damaged.
    """
    with path.open("rb") as file:
        head = file.read(9)
    return read_safetensors(path).metadata if begins_as_safetensors(head, path.stat().st_size) else {}


def begins_as_safetensors(head: bytes, size: int) -> bool:
    """True if the first 9 bytes of a file of ``size`` bytes can be those of a safetensors file."""
    return len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= min(MAX_HEADER, size - 8)


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file atomically.

    Args:
        tensors: Tensors by name, on any device.
        path: Path of the file.
        metadata: Texts by name, for the header of the file.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as file:  # given as a name: safetensors.torch.save would hold all tensors in memory twice
        safetensors.torch.save_file(contiguous, file.name, metadata and dict(metadata))
