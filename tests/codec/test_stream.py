"""The file's layout by hand, and thousands of damaged ones."""

import tracemalloc
import zlib

import numpy as np
import pytest

from vistok.codec import packets, stream
from vistok.codec.stream import StreamHeader, pack, unpack, varint

HEADER = StreamHeader(b"abcd", 300, 2, 1, 0)


def test_bytes_by_hand():
    head = b"\x89VTK\x01abcd" + bytes([0xAC, 2, 2, 1, 0, 1, 3]) + zlib.crc32(b"xyz").to_bytes(4, "big")
    assert pack(HEADER, [b"xyz"]) == head + zlib.crc32(head).to_bytes(4, "big") + b"xyz"


def test_read_back():
    parts = [b"one", b"", b"three"]
    assert unpack(pack(HEADER, parts)) == (HEADER, parts)


@pytest.mark.parametrize("value", [0, 127, 128, 2**28 - 1])
def test_varints(value):
    assert stream.Reader(varint(value)).varint() == value


def test_varints_end():
    with pytest.raises(ValueError, match="28 bits"):
        stream.Reader(b"\xff" * 10).varint()
    with pytest.raises(ValueError, match="is not from 0"):
        varint(2**28)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"\x89PNG" + d[4:], "not a file of"),
        (lambda d: b"", "truncated"),
        (lambda d: d[:4] + b"\x07" + d[5:], "version 7; this program reads 1"),
        (lambda d: d[:20], "truncated within its header"),
        (lambda d: d[:9] + b"\xad" + d[10:], "checksum"),
        (lambda d: d + b"more", "4 bytes follow its end"),
    ],
)
def test_damage_has_a_message(change, message):
    with pytest.raises(ValueError, match=message):
        unpack(change(pack(HEADER, [b"xyz" * 9])))


def test_too_large():
    with pytest.raises(ValueError, match="16384x1025 pixels, more than max_pixels=16777216"):
        unpack(pack(StreamHeader(b"abcd", 16384, 1025, 0, 0), [b""]))
    unpack(pack(StreamHeader(b"abcd", 16384, 1024, 0, 0), [b""]))
    with pytest.raises(ValueError, match="is invalid: 0x5"):
        unpack(pack(StreamHeader(b"abcd", 0, 5, 0, 0), [b""]))


def test_lost_packets():
    data = pack(HEADER, [b"one", b"two", b"three"])
    assert unpack(data[:-3])[1] == [b"one", b"two", None]
    assert unpack(data[:-8] + b"X" + data[-7:])[1] == [b"one", None, b"three"]


def mutated(data, rng):
    """Bytes flipped, cut, doubled, inserted or swapped."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(data) or 1))
        kind = rng.integers(5)
        if kind == 0 and data:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 9))]
        elif data:
            data[at] = int(rng.integers(256))
    return bytes(data)


def resigned(data):
    """The file with checksums that fit, as one who means harm would write them; None where there is no header."""
    try:
        reader = stream.Reader(data)
        reader.take(9), reader.varint(), reader.varint(), reader.take(2)
        entries = []
        for _ in range(reader.byte()):
            length = reader.varint()
            entries.append((reader.at, length))
            reader.take(4)
        end = reader.at
    except ValueError:
        return None
    data, at = bytearray(data), end + 4
    for place, length in entries:
        data[place : place + 4] = stream.crc(bytes(data[at : at + length]))
        at += length
    data[end : end + 4] = stream.crc(bytes(data[:end]))
    return bytes(data)


@pytest.mark.parametrize("num_packets", [1, 5])
def test_fuzz(codec, picture, num_packets):
    """Only ValueError, nothing that is not bounded by the largest image, whatever is done to a file."""
    rng = np.random.default_rng(num_packets)
    h, w = codec.grid(45, 30)
    codes = np.stack([rng.integers(0, 5, (h, w)) for _ in codec.rates[1].sizes])
    codings = ["fixed", "static", *(["context"] if num_packets == 1 else [])]
    files = [codec.write(codes, 45, 30, 1, coding, num_packets) for coding in codings]
    whole, damaged, refused = 0, 0, 0
    tracemalloc.start()
    for i in range(700):
        data = mutated(files[i % len(files)], rng)
        for candidate in (data, resigned(data)):
            if candidate is None:
                continue
            try:
                header, read, known = codec.read(candidate, max_pixels=10_000)
            except ValueError as error:
                assert str(error)
                refused += 1
                continue
            assert header.width * header.height <= 10_000
            assert all((part < n).all() for part, n in zip(read, codec.rates[header.rate].sizes, strict=True))
            if candidate is data:
                assert np.array_equal(read[:, known], codes[:, known])  # no damage goes unnoticed
            whole, damaged = whole + bool(known.all()), damaged + (not known.all())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 300 and whole > 10 and peak < 20e6
    assert damaged > 100 if num_packets > 1 else True


@pytest.mark.parametrize("number", [1, 2, 5, 20, 255])
def test_packets_share_positions_evenly_and_far_apart(number):
    owner = packets.packet_of(40, 40, number)
    counts = np.bincount(owner.ravel(), minlength=number)
    assert counts.min() >= 1 and counts.max() - counts.min() <= 4
    if number >= 5:  # neighbours are always in other packets
        assert (owner[1:] != owner[:-1]).all() and (owner[:, 1:] != owner[:, :-1]).all()
    if number == 5:  # the knight's move: 1 right, 2 down
        assert packets.step_of(5) == 2
