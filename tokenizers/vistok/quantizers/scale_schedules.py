"""Schedules of scales: the grids of the maps that a multi-scale head quantizes, from coarse to fine."""

import math
from collections.abc import Sequence
from typing import Literal

from vistok.quantizers.aspect_ratios import PUBLISHED_BY_GRID

Grid = tuple[int, int]
Name = Literal["var", "infinity", "infinity_dynamic", "infinity_patches"]
Schedule = Name | Sequence[int | tuple[int, int]]

# Sides of the scales for square latents, as published.
PUBLISHED: dict[str, tuple[tuple[int, ...], ...]] = {
    "var": (  # arXiv:2404.02905: images of 256 and of 512 pixels at f16
        (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    ),
    "infinity": (  # arXiv:2412.04431: 256, 512 and 1,024 pixels at f16
        (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
        (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
    ),
    "infinity_dynamic": (  # its generators': about 0.06, 0.25, 0.6 and 1 million pixels
        (1, 2, 4, 6, 8, 12, 16),
        (1, 2, 4, 6, 8, 12, 16, 20, 24, 32),
        (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48),
        (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64),
    ),
}


def grids_of(schedule: Schedule, h: int, w: int) -> tuple[Grid, ...]:
    """Grids (h, w) of all scales of a latent; the last one is its own.

    A named schedule has the published scales for the latents that it was published for. For another latent, of any
    aspect ratio, the published list for squares of the nearest size is scaled: by ratio, of the sides of squares of
    equal area. A side p of N becomes (p h / N, p w / N), rounded half up and at least 1. Of equal grids one is kept.
    ``infinity_patches`` has the scales of ``infinity_dynamic`` for half the sides, doubled: its generator reads bits in
    patches of 2 x 2.

    Raises:
        ValueError: A list does not end with the latent's grid, or patches do not divide it.
    """
    if schedule == "infinity_patches":
        if h % 2 or w % 2:
            raise ValueError(f"schedule='infinity_patches' needs even sides, but the latent is {h}x{w}")
        return tuple((2 * own, 2 * other) for own, other in grids_of("infinity_dynamic", h // 2, w // 2))
    if isinstance(schedule, str):
        if (h, w) in PUBLISHED_BY_GRID.get(schedule, {}):
            return PUBLISHED_BY_GRID[schedule][h, w]
        side = math.sqrt(h * w)
        sides = min(PUBLISHED[schedule], key=lambda own: abs(math.log(own[-1] / side)))
        scaled = [tuple(max(1, math.floor(p * own / sides[-1] + 0.5)) for own in (h, w)) for p in sides]
        return tuple((own[0], own[1]) for own in dict.fromkeys(scaled))
    grids = fixed(schedule)
    if grids[-1] != (h, w):
        raise ValueError(
            f"schedule={list(schedule)} ends with {grids[-1][0]}x{grids[-1][1]}, but the latent is {h}x{w}"
        )
    return grids


def fixed(schedule: Sequence[int | Sequence[int]]) -> tuple[Grid, ...]:
    """Grids (h, w) of a list of sides or of (h, w).

    Raises:
        ValueError: The list is empty, a side is below 1, or a scale is larger than the next.
    """
    grids = [(own, own) if isinstance(own, int) else (own[0], own[1]) for own in schedule]
    if not grids or any(side < 1 for grid in grids for side in grid):
        raise ValueError(f"schedule={list(schedule)} must be sides, or pairs of sides (h, w), of at least 1")
    for smaller, larger in zip(grids, grids[1:], strict=False):
        if smaller[0] > larger[0] or smaller[1] > larger[1]:
            raise ValueError(f"schedule={list(schedule)} must go from coarse to fine, but {larger} follows {smaller}")
    return tuple(grids)
