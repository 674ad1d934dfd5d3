"""Bytes of a large file: mapped, and parts of them read into memory with their checksums in one pass."""

import mmap
import zlib
from contextlib import suppress
from io import FileIO

MAX_READ = 2 * 2**30  # bytes of a file whose parts are read into memory; those of a larger one stay mapped
CHUNK = 2**20  # bytes that are read and summed at once: they stay in the processor's cache in between
POPULATE = 23  # MADV_POPULATE_WRITE of Linux 5.14: all pages at once, in three quarters of the time of one by one


class FileBytes:
    """An open file, mapped copy on write, and memory in which its parts have the places that they have in it.

    Parts that are not read take no memory.

    Args:
        file: The open file.
        data: Its bytes, mapped.
    """

    def __init__(self, file: FileIO, data: mmap.mmap):
        self.file, self.data, self.memory = file, data, data
        if len(data) <= MAX_READ:
            self.memory = mmap.mmap(-1, len(data), access=mmap.ACCESS_COPY)

    def read(self, first: int, length: int) -> int:
        """Reads a part into ``memory``; returns its CRC-32.

        Raises:
            ValueError: The file has become shorter.
        """
        if self.memory is self.data:
            return self.checksum(first, length)
        crc, view = 0, memoryview(self.memory)
        self.file.seek(first)
        for at in range(first, first + length, CHUNK):
            chunk = view[at : min(at + CHUNK, first + length)]
            page = at - at % mmap.PAGESIZE
            with suppress(OSError, AttributeError, ValueError):  # of systems without it
                self.memory.madvise(POPULATE, page, at + len(chunk) - page)
            if self.file.readinto(chunk) != len(chunk):
                raise ValueError("it has become shorter while it was read")
            crc = zlib.crc32(chunk, crc)
        return crc

    def checksum(self, first: int, length: int) -> int:
        """CRC-32 of a part that is not needed in memory."""
        return zlib.crc32(memoryview(self.data)[first : first + length])
