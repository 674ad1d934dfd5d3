"""Names of images in one file that is memory-mapped: what a process holds does not grow with the number of names.

The file is a header, the text of all names, where each name begins and ends in it, and a checksum of each block of
names, which every reading verifies. Another column of text, such as captions, is a file of the same form.
"""

import mmap
import shutil
import struct
import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice, pairwise
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np

MAGIC, VERSION = b"vistokNT", 1
HEADER = struct.Struct("<8sQQQ32sI")  # magic, version, names, bytes of text, digest, checksum of what precedes
BLOCK = 64  # names of a checksum
AT_ONCE = 2**16  # names that are written at once, a multiple of BLOCK
PAIR = struct.Struct("<qq")
ENCODING = ("utf-8", "surrogatepass")  # bytes in the order of the texts, also of undecodable file names


class NameTable(Sequence[str]):
    """Names in the order in which they were written; several processes share the memory of one file.

    Attributes:
        digest: Hash of all names and their order, in hexadecimal digits.
    """

    def __init__(self, path: Path):
        """Opens a file; ``open`` is the same.

        Raises:
            ValueError: It is no such file, or incomplete or damaged.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as a table of names: {error}") from error
        head = self._map[: HEADER.size]
        if len(head) < HEADER.size or not head.startswith(MAGIC) or zlib.crc32(head[:-4]) != HEADER.unpack(head)[-1]:
            raise ValueError(f"{path} is not a table of names, or is damaged")
        _, version, self._count, self._size, digest, _ = HEADER.unpack(head)
        if version != VERSION:
            raise ValueError(f"{path} is a table of names of version {version}; this vistok reads version {VERSION}")
        self.digest = digest.hex()
        self._last = (-1, 0, b"")  # block, its start and text
        self._offsets = HEADER.size + self._size
        self._checks = self._offsets + 8 * (self._count + 1)
        expected = self._checks + 4 * -(-self._count // BLOCK)
        if len(self._map) != expected:
            raise ValueError(
                f"{path} has {len(self._map):,} bytes instead of {expected:,}: it is incomplete or damaged"
            )

    @staticmethod
    def open(path: Path) -> "NameTable":
        return NameTable(path)

    @staticmethod
    def write(path: Path, names: Iterable[str]) -> "NameTable":
        """Writes names in their order, in memory that does not grow with their number, and opens the file.

        Args:
            path: Path of the file; an existing one is overwritten.
            names: The names; any text without limits.
        """
        with path.open("wb") as file, tempfile.TemporaryFile(dir=path.parent) as offsets:
            count, size, checks = _write_text(iter(names), file, offsets)
            offsets.seek(0)
            shutil.copyfileobj(offsets, file, 2**20)
            file.write(checks)
            file.seek(0)
            digest = blake2b(checks, digest_size=32).digest()  # checksums cover all names and offsets
            head = HEADER.pack(MAGIC, VERSION, count, size, digest, 0)[:-4]
            file.write(head + struct.pack("<I", zlib.crc32(head)))
        return NameTable(path)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """A name, or a list of those of a slice.

        Raises:
            IndexError: There is no such name.
            ValueError: The file is damaged there.
        """
        if isinstance(index, slice):
            chosen = range(*index.indices(self._count))
            return list(self._between(chosen.start, chosen.stop)) if chosen.step == 1 else [self[i] for i in chosen]
        i = range(self._count)[index]  # an int below 0 counts from the end
        if self._last[0] != i // BLOCK:  # images in order look the same block up
            self._last = (i // BLOCK, *self._block(i // BLOCK))
        _, start, text = self._last
        begin, end = PAIR.unpack_from(self._map, self._offsets + 8 * i)
        return self._decoded(text[begin - start : end - start])

    def __iter__(self) -> Iterator[str]:
        return self._between(0, self._count)

    def __reduce__(self):
        return _reopened, (self.path, self.digest)

    def _between(self, first: int, last: int) -> Iterator[str]:
        for block in range(first // BLOCK, -(-last // BLOCK)):
            start, text = self._block(block)
            begin, end = max(first, block * BLOCK), min(last, (block + 1) * BLOCK)
            places = struct.unpack_from(f"<{max(0, end - begin) + 1}q", self._map, self._offsets + 8 * begin)
            for a, b in pairwise(places):
                yield self._decoded(text[a - start : b - start])

    def _block(self, block: int) -> tuple[int, bytes]:
        """Start and bytes of the text of a block, which is verified with its offsets."""
        first, last = block * BLOCK, min((block + 1) * BLOCK, self._count)
        places = self._map[self._offsets + 8 * first : self._offsets + 8 * (last + 1)]
        (start,), (end,) = struct.unpack_from("<q", places), struct.unpack_from("<q", places, len(places) - 8)
        if not 0 <= start <= end <= self._size:
            raise self._damaged(first)
        text = self._map[HEADER.size + start : HEADER.size + end]
        (known,) = struct.unpack_from("<I", self._map, self._checks + 4 * block)
        if zlib.crc32(text, zlib.crc32(places)) != known:
            raise self._damaged(first)
        return start, text

    def _decoded(self, text: bytes) -> str:
        return text.decode(*ENCODING)

    def _damaged(self, first: int) -> ValueError:
        return ValueError(
            f"{self.path} is damaged: names {first:,} to {first + BLOCK - 1:,} do not have their checksum"
        )


def _write_text(names: Iterator[str], file: BinaryIO, offsets: BinaryIO) -> tuple[int, int, bytes]:
    """Writes texts after an empty header, and their offsets; returns both counts and the blocks' checksums."""
    file.write(bytes(HEADER.size))
    offsets.write(bytes(8))
    checks: list[int] = []
    count = size = 0
    while part := list(islice(names, AT_ONCE)):
        joined = "".join(part)
        if joined.isascii():
            text, lengths = joined.encode(), map(len, part)
        else:
            encoded = [name.encode(*ENCODING) for name in part]
            text, lengths = b"".join(encoded), map(len, encoded)
        places = np.zeros(len(part) + 1, dtype="<i8")
        np.cumsum(array("q", list(lengths)), out=places[1:])
        starts, raw = [*places[:-1:BLOCK].tolist(), len(text)], (places + size).tobytes()
        for block, (first, last) in enumerate(pairwise(starts)):
            own = zlib.crc32(raw[8 * BLOCK * block : 8 * BLOCK * (block + 1) + 8])
            checks.append(zlib.crc32(text[first:last], own))
        file.write(text)
        offsets.write(raw[8:])
        count, size = count + len(part), size + len(text)
    return count, size, np.asarray(checks, dtype="<u4").tobytes()


def _reopened(path: Path, digest: str) -> NameTable:
    """The same table in another process."""
    table = NameTable(path)
    if table.digest != digest:
        raise ValueError(f"{path} has other names than when this process was started")
    return table
