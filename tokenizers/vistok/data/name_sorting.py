"""Sorting of more names than memory holds: sorted parts on disk, which are then merged."""

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from vistok.data.name_table import NameTable

IN_MEMORY = 1_000_000  # names that are sorted at once, about 150 bytes each


def sorted_names(blocks: Iterable[list[str]], folder: Path, in_memory: int = IN_MEMORY) -> Iterator[str]:
    """Names in the order of ``sorted``.

    Args:
        blocks: Names in blocks, of which each fits in memory.
        folder: Folder for the sorted parts, which are removed.
        in_memory: Number of names that are sorted at once.
    """
    names: list[str] = []
    parts: list[NameTable] = []
    on_disk = Path()
    with ExitStack() as stack:
        for block in blocks:
            names += block
            if len(names) >= in_memory:
                if not parts:
                    on_disk = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=".sorting-")))
                names.sort()
                parts.append(NameTable.write(on_disk / str(len(parts)), names))
                names = []
        names.sort()
        return _merged(parts, names, stack.pop_all()) if parts else iter(names)


def _merged(parts: list[NameTable], names: list[str], stack: ExitStack) -> Iterator[str]:
    with stack:
        yield from heapq.merge(*parts, names)
