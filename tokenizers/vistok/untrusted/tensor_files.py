"""Safetensors files that anybody may have written, read within bounds."""

import struct
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vistok.untrusted.bounded_json import one_line

MAX_HEADER = 16 * 2**20  # bytes of JSON in a safetensors file
MAX_TENSORS = 100_000


class Stored(NamedTuple):
    """The contents of a safetensors file."""

    tensors: dict[str, Tensor]  # mapped from the file
    metadata: dict[str, str]


def read_safetensors(path: Path) -> Stored:
    """Map a safetensors file. Its tensors take no memory before they are used; leave the file as it is until then.

    Raises:
        ValueError: It is damaged, or has more tensors than any network. Its message does not name the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8:
        raise ValueError(f"it has {size:,} bytes, which is no safetensors file")
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
        raise ValueError(one_line(error)) from error  # the library's, and torch's for types that it does not have
