"""Pictures of images in rows: reconstructions below their originals, and labelled images."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL, GAP, CAPTION = 160, 6, 28  # pixels: least width of an image, space between two, height of a caption
TEXT, SQUARE = 16, 12  # pixels: height of the text, side of a colour in a legend
ENTRIES = 3  # entries of a legend for which there is always space
TYPICAL = 192  # about the width of a reconstruction in pixels
SMALLEST = 96  # smallest width of a labelled image in pixels
WHITE, INK = (255, 255, 255), (40, 40, 40)


class PictureRow(NamedTuple):
    """Pictures side by side.

    Attributes:
        pictures: The pictures.
        caption: Text above the row; None leaves no space for one.
        names: Text above each picture instead.
        legend: Colours (red, green, blue) and their meaning, after the caption as far as there is space.
    """

    pictures: Sequence[Image.Image]
    caption: str | None = None
    names: Sequence[str] = ()
    legend: Sequence[tuple[tuple[int, int, int], str]] = ()


def stacked(rows: Sequence[PictureRow]) -> Image.Image:
    """One picture of rows below each other. A column is as wide as its widest picture; longer names are truncated."""
    columns = itertools.zip_longest(*(row.pictures for row in rows))
    widths = [max(picture.width for picture in column if picture) for column in columns]
    lefts = [GAP, *(GAP + right for right in itertools.accumulate(width + GAP for width in widths))]
    above = [CAPTION if row.caption is not None or row.names else GAP for row in rows]
    heights = [max(picture.height for picture in row.pictures) for row in rows]
    right = max(lefts[-1], *map(_least_width, rows))
    canvas = Image.new("RGB", (right, sum(above) + sum(heights) + GAP * len(rows)), WHITE)
    draw, top = ImageDraw.Draw(canvas), 0
    for row, height, space in zip(rows, heights, above, strict=True):
        for left, width, text in zip(lefts, widths, row.names, strict=False):
            _write(draw, left, top, text, width)
        _write_legend(draw, top, row.caption or "", row.legend, canvas.width)
        for left, picture in zip(lefts, row.pictures, strict=False):
            canvas.paste(picture, (left, top + space))
        top += space + height + GAP
    return canvas


def _least_width(row: PictureRow) -> int:
    """Width in pixels of the caption and of the first entries of the legend."""
    length = ImageFont.load_default(size=TEXT).getlength
    entries = (2 * GAP + SQUARE + GAP + length(text) for _, text in row.legend[:ENTRIES])
    return math.ceil(2 * GAP + length(row.caption or "") + sum(entries))


def _write(draw: ImageDraw.ImageDraw, left: float, top: int, text: str, width: float) -> float:
    """Writes a text as far as it fits into a width; returns its right end."""
    font = ImageFont.load_default(size=TEXT)
    while text and draw.textlength(text, font=font) > width:
        text = text.removesuffix("…")[:-1] + "…" if len(text) > 1 else ""
    draw.text((left, top + CAPTION // 2), text, fill=INK, font=font, anchor="lm")
    return left + draw.textlength(text, font=font)


def _write_legend(
    draw: ImageDraw.ImageDraw,
    top: int,
    caption: str,
    legend: Sequence[tuple[tuple[int, int, int], str]],
    right: int,
) -> None:
    """Writes a caption and those entries of a legend that fit before the right end."""
    font = ImageFont.load_default(size=TEXT)
    left = _write(draw, GAP, top, caption, right) + 2 * GAP
    for colour, text in legend:
        end = left + SQUARE + GAP + draw.textlength(text, font=font)
        if end > right - GAP:
            return
        middle = top + CAPTION // 2
        draw.rectangle((left, middle - SQUARE // 2, left + SQUARE, middle + SQUARE // 2), fill=colour)
        left = _write(draw, left + SQUARE + GAP, top, text, right) + 2 * GAP


def reconstruction_grid(
    images: Sequence[Tensor] | Tensor,
    reconstructions: Sequence[Tensor] | Tensor,
    caption: str,
    keep: Sequence[Tensor] = (),
) -> Image.Image:
    """Originals above reconstructions, each row below its caption; small images are enlarged by an integer factor.

    Args:
        images: n images (3, H, W) uint8, which may differ in size.
        reconstructions: The same shapes.
        caption: Caption of the reconstructions.
        keep: For each image the positions that are tokens, (h, w) bool, chosen by a dynamic head. They add a row that
            outlines the region of each token. Empty adds no row.
    """
    factor = max(1, round(TYPICAL / max(image.shape[2] for image in images)))
    sizes = [(image.shape[2] * factor, image.shape[1] * factor) for image in images]
    rows = [("originals", tiles(images, sizes)), (caption, tiles(reconstructions, sizes))]
    if keep:
        numbers = ", ".join(str(int(k.sum())) for k in keep)
        outlined = [outline(tile, k.cpu().numpy()) for tile, k in zip(rows[0][1], keep, strict=True)]
        rows.append((f"region of each token: {numbers} tokens", outlined))
    return stacked([PictureRow(pictures, text) for text, pictures in rows])


def tiles(images: Sequence[Tensor] | Tensor, sizes: Sequence[tuple[int, int]]) -> list[Image.Image]:
    """Images (3, H, W) uint8, each enlarged to its (width, height) without smoothing."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
    return [picture.resize(size, Image.Resampling.NEAREST) for picture, size in zip(pictures, sizes, strict=True)]


def labelled_tiles(images: Tensor, captions: Sequence[str], columns: int) -> Image.Image:
    """Images (n, 3, H, W) uint8 in rows, each below its caption; small images are enlarged by an integer factor."""
    height, width = images.shape[-2:]
    factor = max(1, -(-SMALLEST // width))
    size = (width * factor, height * factor)
    pictures = tiles(images, [size] * len(images))
    starts = range(0, len(images), columns)
    return stacked([PictureRow(pictures[i : i + columns], names=captions[i : i + columns]) for i in starts])


def outline(picture: Image.Image, keep: np.ndarray) -> Image.Image:
    """Paler picture with a square around the region of each token.

    Args:
        picture: The picture.
        keep: (h, w) bool, True at the first position of each region; regions are squares of 1, 2, 4, ... positions.
    """
    picture = Image.blend(picture, Image.new("RGB", picture.size, (255, 255, 255)), 0.35)
    draw = ImageDraw.Draw(picture)
    h, w = keep.shape
    side_x, side_y = picture.width / w, picture.height / h
    for y, x in np.argwhere(keep):
        side = 1
        while not (y % (2 * side) or x % (2 * side)) and keep[y : y + 2 * side, x : x + 2 * side].sum() == 1:
            if 2 * side > min(h, w):
                break
            side *= 2
        corners = (x * side_x, y * side_y, (x + side) * side_x - 1, (y + side) * side_y - 1)
        draw.rectangle(corners, outline=(200, 30, 60))
    return picture
