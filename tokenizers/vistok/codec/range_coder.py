"""Codes to bytes and back: a fixed number of bits for each code, or a range coder with integer tables.

The range coder is ``constriction``'s. Its tables are integers counted beforehand (``frequencies``). They are passed as
exact float32 values with sums below 2^24, which are exact too, so that every machine decodes the same codes.
"""

import math
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from vistok.codec.frequencies import Statistics, context_of

FIXED, STATIC, CONTEXT = 0, 1, 2
CODINGS = {"fixed": FIXED, "static": STATIC, "context": CONTEXT}


def encode(codes: np.ndarray, statistics: Sequence[Statistics], coding: int) -> bytes:
    """Encodes codes to bytes.

    Args:
        codes: (k, m) integers, or (k, h, w) for ``CONTEXT``, which reads the neighbours to the left and above.
        statistics: Statistics of each codebook.
        coding: ``FIXED``, ``STATIC`` or ``CONTEXT``.
    """
    if coding == FIXED:
        return b"".join(
            packed(of_codebook.ravel(), bits(s.size)) for of_codebook, s in zip(codes, statistics, strict=True)
        )
    coder = constriction()
    encoder = coder.stream.queue.RangeEncoder()
    for of_codebook, s in zip(codes, statistics, strict=True):
        if coding == STATIC:
            encoder.encode(of_codebook.ravel().astype(np.int32), model(coder, s.frequencies))
            continue
        models = Models(coder, s)
        for y, x in positions(of_codebook.shape):
            encoder.encode(int(of_codebook[y, x]), models[context_of(of_codebook, y, x, s.classes)])
    data = encoder.get_compressed().astype(">u4").tobytes()
    least = least_bytes(codes[0].size, statistics, coding)
    return data.rstrip(b"\0").ljust(least, b"\0")  # the decoder reads missing bytes as zeros


def least_bytes(number: int, statistics: Sequence[Statistics], coding: int) -> int:
    """Lower bound of the bytes for ``number`` codes of each codebook: those of the most probable codes, minus a few.

    Trailing zeros are not written, and a sequence of probable codes may consist of zeros alone. Without this bound a
    few bytes could demand an image of any size.
    """
    likeliest = [s.frequencies if coding == STATIC else s.rows for s in statistics]
    bits = sum(float(np.log2(f.sum(-1, dtype=np.int64) / f.max(-1)).min()) for f in likeliest)
    return max(0, int(number * bits * 0.98 / 8) - 8)


def decode(data: bytes, shape: tuple[int, ...], statistics: Sequence[Statistics], coding: int) -> np.ndarray:
    """Decodes the bytes of ``encode``.

    Args:
        data: The bytes.
        shape: Shape of the codes of one codebook: (m,), or (h, w) for ``CONTEXT``.
        statistics: Statistics of each codebook.
        coding: As for ``encode``.

    Returns:
        (k, *shape) int64.

    Raises:
        ValueError: The bytes are invalid, as far as this is detectable.
    """
    number = math.prod(shape)
    if coding == FIXED:
        sizes = [-(-number * bits(s.size) // 8) for s in statistics]
        if len(data) != sum(sizes):
            raise ValueError(f"the codes take {len(data)} bytes, not the {sum(sizes)} that they need")
        starts = np.cumsum([0, *sizes])
        parts = [
            unpacked(data[at : at + size], bits(s.size), number, s.size)
            for at, size, s in zip(starts, sizes, statistics, strict=False)
        ]
        return np.stack(parts).reshape(len(parts), *shape)
    if len(data) < least_bytes(number, statistics, coding):
        raise ValueError(f"the codes are damaged: {number:,} of each codebook take more than {len(data):,} bytes")
    coder = constriction()
    chunks = np.frombuffer(data + bytes(-len(data) % 4), dtype=">u4").astype(np.uint32)
    decoder = coder.stream.queue.RangeDecoder(chunks)
    codes = np.zeros((len(statistics), *shape), dtype=np.int64)
    try:
        for of_codebook, s in zip(codes, statistics, strict=True):
            if coding == STATIC:
                of_codebook[...] = decoder.decode(model(coder, s.frequencies), number).reshape(shape)
                continue
            models = Models(coder, s)
            for y, x in positions(shape):
                of_codebook[y, x] = decoder.decode(models[context_of(of_codebook, y, x, s.classes)])
    except AssertionError as error:  # raised by constriction for bytes that no encoder writes
        raise ValueError("the codes are damaged: no codes have these bytes") from error
    if not decoder.maybe_exhausted():
        raise ValueError("the codes are damaged: they end before their bytes")
    return codes


def positions(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Positions of a grid (h, w), row by row."""
    return ((y, x) for y in range(shape[0]) for x in range(shape[1]))


class Models(dict):
    """The coder's models of one codebook by context, created at their first use."""

    def __init__(self, coder: ModuleType, statistics: Statistics):
        super().__init__()
        self.coder, self.statistics = coder, statistics

    def __missing__(self, context: tuple[int, int]) -> Any:
        self[context] = model(self.coder, self.statistics.rows[context])
        return self[context]


def model(coder: ModuleType, frequencies: np.ndarray) -> Any:
    """The coder's distribution, with probabilities proportional to integers (n,), all above 0."""
    return coder.stream.model.Categorical(frequencies.astype(np.float32), perfect=False)


def bits(size: int) -> int:
    """Number of bits of a code of fixed length."""
    return max(1, (size - 1).bit_length())


def packed(codes: np.ndarray, width: int) -> bytes:
    """Codes (m,) in ``width`` bits each, highest first; the last byte is padded with zeros."""
    shifts = np.arange(width - 1, -1, -1)
    return np.packbits(((codes[:, None] >> shifts) & 1).astype(np.uint8)).tobytes()


def unpacked(data: bytes, width: int, number: int, size: int) -> np.ndarray:
    """The inverse of ``packed``; raises ``ValueError`` for a code of ``size`` or above and for non-zero padding."""
    flat = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    codes = flat[: number * width].reshape(number, width).astype(np.int64) @ (1 << np.arange(width - 1, -1, -1))
    if flat[number * width :].any() or (codes >= size).any():
        raise ValueError(f"the codes are damaged: they are not {number} codes below {size}")
    return codes


def constriction() -> ModuleType:
    """Library of the range coder."""
    try:
        import constriction
    except ImportError as error:
        raise ImportError("entropy-coded files need constriction: pip install 'vistok[codec]'") from error
    return constriction
