"""Codes of several codebooks as one sequence over one vocabulary, and back."""

from collections.abc import Sequence

import numpy as np


def interleave(codes: np.ndarray, codebook_sizes: Sequence[int]) -> np.ndarray:
    """Codes (..., k, h, w) to ids (..., h·w·k): the k codes of a position side by side, positions in raster order.

    Codebook j's ids begin where those before it end, so that one table of ``sum(codebook_sizes)`` rows embeds them
    all. With one codebook the ids are the codes.
    """
    k = len(codebook_sizes)
    starts = np.cumsum([0, *codebook_sizes[:-1]])
    flat = codes.reshape(*codes.shape[:-3], k, -1).astype(np.int64) + starts[:, None]
    return np.swapaxes(flat, -1, -2).reshape(*codes.shape[:-3], -1)


def deinterleave(ids: np.ndarray, codebook_sizes: Sequence[int], grid: Sequence[int]) -> np.ndarray:
    """Ids (..., h·w·k) to codes (..., k, h, w) int64: the inverse of ``interleave``.

    Raises:
        ValueError: The ids are of another number, or one is not of its place's codebook.
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
