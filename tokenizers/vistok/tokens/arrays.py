"""Arrays from files that anybody may have written: read or refused, never unpickled."""

import io
import zipfile
from pathlib import Path

import numpy as np


def read_array(file: Path | bytes, where: str, mapped: bool = False) -> np.ndarray:
    """The array in a ``.npy`` file, or in its bytes.

    Args:
        file: The file.
        where: What to call it in messages.
        mapped: Leave it on disk until it is used.

    Raises:
        ValueError: It holds no such array.
    """
    try:
        source = io.BytesIO(file) if isinstance(file, bytes) else file
        array = np.load(source, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{where} cannot be read as an array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{where} cannot be read as an array: it is an archive of several")
    return array
