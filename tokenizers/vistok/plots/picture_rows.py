"""Pictures of images in rows: reconstructions below their originals, and labelled images."""

import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL, GAP, CAPTION = 160, 6, 28  # pixels: least width of an image, space between two, height of a caption
SMALLEST = 96  # smallest width of a labelled image in pixels


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
    factor = max(1, CELL // max(image.shape[2] for image in images))
    sizes = [(image.shape[2] * factor, image.shape[1] * factor) for image in images]
    rows = [("originals", tiles(images, sizes)), (caption, tiles(reconstructions, sizes))]
    if keep:
        numbers = ", ".join(str(int(k.sum())) for k in keep)
        outlined = [outline(tile, k.cpu().numpy()) for tile, k in zip(rows[0][1], keep, strict=True)]
        rows.append((f"region of each token: {numbers} tokens", outlined))
    lefts = [GAP, *(GAP + right for right in itertools.accumulate(width + GAP for width, _ in sizes))]
    height = max(height for _, height in sizes)
    canvas = Image.new("RGB", (lefts[-1], len(rows) * (CAPTION + height + GAP)), color=(255, 255, 255))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    for row, (text, pictures) in enumerate(rows):
        top = row * (CAPTION + height + GAP)
        draw.text((GAP, top + CAPTION // 2), text, fill=(40, 40, 40), font=font, anchor="lm")
        for left, tile in zip(lefts, pictures, strict=False):
            canvas.paste(tile, (left, top + CAPTION))
    return canvas


def tiles(images: Sequence[Tensor] | Tensor, sizes: Sequence[tuple[int, int]]) -> list[Image.Image]:
    """Images (3, H, W) uint8, each enlarged to its (width, height) without smoothing."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
    return [picture.resize(size, Image.Resampling.NEAREST) for picture, size in zip(pictures, sizes, strict=True)]


def labelled_tiles(images: Tensor, captions: Sequence[str], columns: int) -> Image.Image:
    """Images (n, 3, H, W) uint8 in rows, each below its caption; small images are enlarged by an integer factor."""
    height, width = images.shape[-2:]
    factor = max(1, -(-SMALLEST // width))
    size = (width * factor, height * factor)
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (size[0] + GAP) + GAP, rows * (CAPTION + size[1]) + GAP), (255, 255, 255))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for n, (picture, text) in enumerate(zip(tiles(images, [size] * len(images)), captions, strict=True)):
        left, top = GAP + n % columns * (size[0] + GAP), n // columns * (CAPTION + size[1])
        while text and draw.textlength(text, font=font) > size[0]:
            text = text[:-1]
        draw.text((left, top + CAPTION // 2), text, fill=(40, 40, 40), font=font, anchor="lm")
        canvas.paste(picture, (left, top + CAPTION))
    return canvas


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
