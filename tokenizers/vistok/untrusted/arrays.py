"""Arrays in files from unknown sources: read or refused, never unpickled or evaluated.

numpy's own reader parses a header as Python and allocates the memory that it claims. Here a header is matched as text,
and its array must have exactly the rest of the file.
"""

import io
import math
import re
from pathlib import Path

import numpy as np

from vistok.untrusted.bounded_json import short

MAX_HEADER = 4_096  # bytes; numpy writes 118 for typical arrays
MAX_DIMENSIONS, MAX_SIDE = 8, 2**48
TYPES = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
TEXTS = re.compile(r"[<>=]?U[1-9]\d{0,3}")
ENTRY = (
    r"(?:'descr'\s*:\s*'(?P<descr>[^']{1,16})'"
    r"|'fortran_order'\s*:\s*(?P<fortran>True|False)"
    r"|'shape'\s*:\s*\((?P<shape>[\d\s,]*)\))"
)
HEADER = re.compile(r"\{\s*" + r"\s*,\s*".join([re.sub(r"\?P<\w+>", "?:", ENTRY)] * 3) + r"\s*,?\s*\}\s*")


def read_array(file: Path | bytes, where: str, mapped: bool = False, texts: bool = False) -> np.ndarray:
    """Read-only array of numbers in a ``.npy`` file, or in its bytes.

    Args:
        file: The file.
        where: Name of the file, for messages.
        mapped: True maps the file into memory instead of reading it.
        texts: True reads an array of texts of at most 9,999 characters, and none of numbers.

    Raises:
        ValueError: The file has no such array.
    """
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            dtype, shape, order, start = _header(stream.read(MAX_HEADER + 12), size, TEXTS if texts else TYPES)
            if not math.prod(shape):  # an empty array can be neither mapped nor read
                return np.empty(shape, dtype)
            if mapped:
                return np.memmap(stream, dtype, "r", start, shape, order)
            stream.seek(start)
            return np.frombuffer(stream.read(), dtype).reshape(shape, order=order)
    except (OSError, ValueError) as error:
        raise ValueError(f"{where} cannot be read as an array: {error}") from error


def _header(begin: bytes, size: int, types: re.Pattern[str]) -> tuple[np.dtype, tuple[int, ...], str, int]:
    """Dtype, shape, order and first byte of the array in a file of ``size`` bytes that starts with ``begin``."""
    if begin[:6] != b"\x93NUMPY" or begin[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("it does not start like a .npy file")
    start = 10 if begin[6] == 1 else 12
    length = int.from_bytes(begin[8:start], "little")
    text = begin[start : start + length].decode("latin1")
    if len(text) < length or length > MAX_HEADER:
        raise ValueError(f"its header claims {length:,} bytes")
    entries = [match.groupdict().items() for match in re.finditer(ENTRY, text)]
    found = {name: value for entry in entries for name, value in entry if value is not None}
    sides = [side.strip() for side in found.get("shape", "").split(",") if side.strip()]
    if not HEADER.fullmatch(text) or len(found) < 3 or not all(map(str.isdigit, sides)):
        raise ValueError(f"its header is {short(text.strip())}")
    if not types.fullmatch(found["descr"]):
        raise ValueError(f"it holds {found['descr']}, not {'texts' if types is TEXTS else 'numbers'}")
    if len(sides) > MAX_DIMENSIONS or any(len(side) > 15 or int(side) >= MAX_SIDE for side in sides):
        raise ValueError(f"its shape is {short(found['shape'])}")
    dtype, shape = np.dtype(found["descr"]), tuple(map(int, sides))
    if math.prod(shape) * dtype.itemsize != size - start - length:
        raise ValueError(f"it claims {dtype} {shape}, {size - start - length:,} bytes follow its header")
    return dtype, shape, "F" if found["fortran"] == "True" else "C", start + length
