"""Random masks of known pixels, for training on images with holes; drawn from a given generator."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

SMALLEST, LARGEST = 0.25, 0.5  # sides of a box, as shares of the image's
STROKES, CORNERS = (2, 8), (4, 12)  # numbers of strokes and of their corners, from and to
WIDTH, LENGTH = (0.03, 0.1), (0.05, 0.2)  # of a stroke and of its parts, as shares of the image's longer side
TURN = 2 * np.pi / 5  # mean angle between the parts of a stroke


def box(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """Mask (1, H, W) bool with one unknown box, whose sides are a quarter to half of the image's."""
    h, w = (max(1, int(side * rng.uniform(SMALLEST, LARGEST))) for side in (height, width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    mask = torch.ones(1, height, width, dtype=torch.bool)
    mask[:, top : top + h, left : left + w] = False
    return mask


def irregular(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """Mask (1, H, W) bool with unknown strokes of a brush, after DeepFill v2 (arXiv:1806.03589, algorithm 1)."""
    longer = max(height, width)
    picture = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(*STROKES, endpoint=True)):
        brush = max(1, round(longer * rng.uniform(*WIDTH)))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        for corner in range(rng.integers(*CORNERS, endpoint=True)):
            angle = rng.uniform(TURN - np.pi / 6, TURN + np.pi / 6)
            angle = 2 * np.pi - angle if corner % 2 == 0 else angle
            length = longer * rng.uniform(*LENGTH)
            end = x + length * np.sin(angle), y + length * np.cos(angle)
            draw.line((x, y, *end), fill=0, width=brush)
            draw.ellipse((end[0] - brush / 2, end[1] - brush / 2, end[0] + brush / 2, end[1] + brush / 2), fill=0)
            x, y = end
    return torch.from_numpy(np.array(picture) > 0)[None]


KINDS: dict[str, Callable[[np.random.Generator, int, int], Tensor]] = {"box": box, "irregular": irregular}


def kind_of_mask(name: str | None) -> str | None:
    """The user's ``data.mask``, checked.

    Raises:
        ValueError: There is no such kind.
    """
    if name is not None and name not in KINDS:
        raise ValueError(f"data.mask must be {', '.join(KINDS)} or null, not {name!r}")
    return name


def mask_of(kind: str | None, key: tuple[int, ...], image: Tensor) -> Tensor | None:
    """Mask of an image (c, H, W), the same for the same key; None without a kind."""
    if kind is None:
        return None
    return KINDS[kind](np.random.default_rng((*key, len(key))), *image.shape[1:])
