"""Codes of the page's images in few bytes, for maps over the pictures."""

import base64
from typing import Any

import numpy as np

from vistok.evaluation.accumulator import Scores
from vistok.evaluation.examples import Example
from vistok.quantizers import Layout


def token_data(scores: Scores, example: Example, room: float) -> dict[str, Any] | None:
    """Codes of an image as plain content; None if there are none, or no codebook's codes fit.

    Args:
        scores: Scores of the tokenizer.
        example: The image.
        room: Number of characters for the codes. Further codebooks are omitted.

    Returns:
        ``grids``, [h, w] of each scale. ``codebooks``, the number of those that follow, of ``of``. ``granularities``.
        ``bytes`` of each code. ``codes``, base64 of unsigned little-endian integers (codebooks, positions). ``keep``,
        base64 of a byte for each position, or None.
    """
    if example.codes is None:
        return None
    codes = example.codes.flatten(1).numpy()
    layout = layout_of(scores, example)
    size = next(size for size in (1, 2, 4, 8) if size == 8 or codes.max() < 256**size)
    fitting = min(len(codes), int(room // (codes.shape[1] * size * 4 / 3 + 4)))
    if not fitting:
        return None
    keep = None if example.keep is None else example.keep.flatten().numpy().astype("u1")
    return {
        "grids": [list(grid) for grid in layout.grids],
        "codebooks": fitting,
        "of": len(codes),
        "granularities": layout.granularities,
        "bytes": size,
        "codes": encoded(codes[:fitting].astype(f"<u{size}")),
        "keep": None if keep is None else encoded(keep),
    }


def layout_of(scores: Scores, example: Example) -> Layout:
    """Layout of an image's codes; a sequence where the head has none for images of this size."""
    k, *positions = example.codes.shape
    try:
        layout = scores.layout(*example.image.shape[1:])
    except ValueError:
        layout = None
    if layout is None or sum(h * w for h, w in layout.grids) != np.prod(positions):
        return Layout(((1, int(np.prod(positions))),), k)
    return layout


def encoded(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
