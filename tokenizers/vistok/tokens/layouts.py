"""Conversion between codes of several codebooks and one sequence over one vocabulary."""

from collections.abc import Sequence

import numpy as np


def interleave(codes: np.ndarray, codebook_sizes: Sequence[int]) -> np.ndarray:
    """Codes (..., k, h, w) to ids (..., h·w·k): the k codes of a position side by side, positions in raster order.

    Codes (..., k, 1, n) of several scales keep their order, one scale after the other.

    The ids of codebook j start after those of the codebooks before it, so that one table of ``sum(codebook_sizes)``
    rows embeds all ids. With one codebook the ids are the codes.
    """
    k = len(codebook_sizes)
    starts = np.cumsum([0, *codebook_sizes[:-1]])
    flat = codes.reshape(*codes.shape[:-3], k, -1).astype(np.int64) + starts[:, None]
    return np.swapaxes(flat, -1, -2).reshape(*codes.shape[:-3], -1)


def deinterleave(ids: np.ndarray, codebook_sizes: Sequence[int], grid: Sequence[int]) -> np.ndarray:
    """Ids (..., h·w·k) to codes (..., k, h, w) int64: the inverse of ``interleave``.

    Raises:
        ValueError: The number of ids is wrong, or an id does not belong to the codebook of its place.
    """
    k = len(codebook_sizes)
    if ids.shape[-1] != k * grid[0] * grid[1]:
        raise ValueError(f"{ids.shape[-1]} ids do not fill {k} x {grid[0]} x {grid[1]} places")
    starts = np.cumsum([0, *codebook_sizes[:-1]])
    codes = ids.reshape(*ids.shape[:-1], -1, k).astype(np.int64) - starts
    wrong = (codes < 0) | (codes >= np.asarray(codebook_sizes))
    if wrong.any():
        place = int(np.argwhere(wrong)[0, -2] * k + np.argwhere(wrong)[0, -1])
        raise ValueError(f"the id {int(ids[wrong.reshape(ids.shape)][0])} at place {place} is not of its codebook")
    return np.swapaxes(codes, -1, -2).reshape(*ids.shape[:-1], k, *grid)
