"""File format: a checked header, and packets of codes with a checksum each.

    89 56 54 4B   magic
    1 byte        version
    4 bytes       start of the codec's id
    varints       width and height in pixels
    1 byte        rate: index of the codec's tables
    1 byte        coding: 0 fixed length, 1 range coder, 2 range coder with contexts
    1 byte        number of packets, at least 1
    per packet    varint of its length, 4 bytes of its CRC-32
    4 bytes       CRC-32 of everything before
    packets       in order, to the end of the file

Numbers of several bytes are big-endian; a varint has 7 bits in each byte, lowest first, with the top bit set in all but
the last.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

MAGIC, VERSION = b"\x89VTK", 1
MAX_PIXELS = 2**24  # of an image: a header must not make a decoder allocate unbounded memory


class StreamHeader(NamedTuple):
    """Content of a file's header."""

    codec: bytes  # (4,)
    width: int  # pixels
    height: int
    rate: int
    coding: int


def pack(header: StreamHeader, packets: Sequence[bytes]) -> bytes:
    """Bytes of a file."""
    head = MAGIC + bytes([VERSION]) + header.codec + varint(header.width) + varint(header.height)
    head += bytes([header.rate, header.coding, len(packets)])
    head += b"".join(varint(len(packet)) + crc(packet) for packet in packets)
    return head + crc(head) + b"".join(packets)


def unpack(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[StreamHeader, list[bytes | None]]:
    """Header and packets of a file; None for a packet that is damaged or truncated.

    Raises:
        ValueError: The file is not a compressed image, its header is damaged, the image is larger, or bytes follow its
            end.
    """
    reader = Reader(data)
    if reader.take(len(MAGIC)) != MAGIC:
        raise ValueError("it is not a file of python -m vistok codec compress: its first bytes are others")
    version = reader.byte()
    if version != VERSION:
        raise ValueError(f"it is of version {version}; this program reads {VERSION}")
    codec = reader.take(4)
    header = StreamHeader(codec, reader.varint(), reader.varint(), reader.byte(), reader.byte())
    entries = [(reader.varint(), reader.take(4)) for _ in range(reader.byte())]
    if crc(data[: reader.at]) != reader.take(4):
        raise ValueError("its header is damaged: the checksum differs")
    if not entries or header.width < 1 or header.height < 1:
        raise ValueError(f"its header is invalid: {header.width}x{header.height} pixels, {len(entries)} packets")
    if header.width * header.height > max_pixels:
        raise ValueError(f"it is of {header.width}x{header.height} pixels, more than max_pixels={max_pixels}")
    packets: list[bytes | None] = []
    for length, checksum in entries:
        packet = data[reader.at : reader.at + length]
        packets.append(packet if len(packet) == length and crc(packet) == checksum else None)
        reader.at += length
    if reader.at < len(data):
        raise ValueError(f"{len(data) - reader.at} bytes follow its end")
    return header, packets


class Reader:
    """Reads bytes from the front; raises ``ValueError`` if they end too early."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, number: int) -> bytes:
        taken = self.data[self.at : self.at + number]
        if len(taken) < number:
            raise ValueError("it is truncated within its header")
        self.at += number
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        """Number of at most 4 bytes: below 2^28."""
        value = 0
        for shift in range(0, 28, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("its header is invalid: a number of more than 28 bits")


def varint(value: int) -> bytes:
    """Encodes a number below 2^28 with 7 bits in each byte."""
    if not 0 <= value < 2**28:
        raise ValueError(f"{value} is not from 0 to {2**28 - 1}")
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def crc(data: bytes) -> bytes:
    """CRC-32, 4 bytes."""
    return zlib.crc32(data).to_bytes(4, "big")
