"""Maps of codes: a square for each position, in a colour for each code, as in the reports of an evaluation."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

GOLDEN_ANGLE = 137.50776  # degrees between the hues of neighbouring codes
LIGHTNESSES, RUN = (0.50, 0.66, 0.36), 97  # the lightness changes after this number of codes
SATURATION = 0.75
LINE = 32  # positions in a line of a sequence, which has no place in the image


def colours(codes: np.ndarray) -> np.ndarray:
    """Colours (..., 3) uint8 of codes: those of neighbouring codes are far apart."""
    number = codes.astype(np.int64) % 2**32
    hue = number * GOLDEN_ANGLE % 360
    lightness = np.array(LIGHTNESSES)[number // RUN % 3][..., None]
    position = (np.array([0.0, 8.0, 4.0]) + hue[..., None] / 30) % 12  # red, green, blue
    spread = SATURATION * np.minimum(lightness, 1 - lightness)
    ramp = np.clip(np.minimum(position - 3, 9 - position), -1, 1)
    return np.round(255 * (lightness - spread * ramp)).astype(np.uint8)


def token_map(codes: np.ndarray) -> Image.Image:
    """Map of codes (h, w) with a pixel for each; a sequence (1, n) in lines of ``LINE``, white after its end."""
    h, w = codes.shape
    across = min(w, LINE) if h == 1 else w
    down = -(-codes.size // across)
    pixels = np.full((down * across, 3), 255, np.uint8)
    pixels[: codes.size] = colours(codes).reshape(-1, 3)
    return Image.fromarray(pixels.reshape(down, across, 3))


def frequent(maps: Sequence[np.ndarray], most: int = 12) -> tuple[int, list[tuple[tuple[int, int, int], str]]]:
    """Number of different codes in maps, and a legend of the most frequent ones, each with its count."""
    counts = Counter(np.concatenate([codes.ravel() for codes in maps]).tolist())
    ranked = sorted(counts.items(), key=lambda own: (-own[1], own[0]))[:most]
    found = colours(np.array([code for code, _ in ranked]))
    return len(counts), [(tuple(rgb.tolist()), f"{code} ({n})") for rgb, (code, n) in zip(found, ranked, strict=True)]
