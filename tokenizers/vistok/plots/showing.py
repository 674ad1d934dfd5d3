"""``vistok.show``: images, reconstructions and codes in one picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistok.images.ranges import to_uint8
from vistok.images.rgb_view import RGBView
from vistok.plots.picture_rows import CELL, PictureRow, stacked
from vistok.plots.token_maps import frequent, token_map

if TYPE_CHECKING:
    from vistok.quantizers.base import Layout

LARGEST = 512  # pixels: larger images are reduced


def show(
    *rows: Tensor | Sequence[Tensor],
    labels: Sequence[str] = (),
    layout: "Layout | None" = None,
    columns: int = 8,
) -> Image.Image:
    """Draws images, reconstructions and codes, a row for each argument, as one picture.

    A notebook displays the picture if the call is the last line of a cell, and within a cell by ``display(...)``. A
    script saves it: ``vistok.show(images).save("images.png")``. No window is opened.

    Args:
        rows: Images (b, c, H, W), or a list of images (c, H, W) of any sizes, in [-1, 1] or uint8; or codes
            (b, k, h, w) of any other integer type. Codes are maps with a colour for each code, the same one in all
            pictures; each codebook and scale has its own row, with the most frequent codes and their counts above it.
        labels: Label of each argument; with one argument also of each image.
        layout: Layout of codes of several scales: ``tokenizer.quantizer.layout(*tokenizer.grid(H, W))``. Without it
            codes (b, k, 1, n) are a sequence, drawn in lines of 32.
        columns: Number of images side by side; further ones are below them.

    Raises:
        ValueError: An argument is neither images nor codes, or the numbers of images or labels differ.

    Example:
        ```python
        reconstructions, emitted = tokenizer.reconstruct(images)
        rows = (images, reconstructions, emitted.codes)
        vistok.show(*rows, labels=["images", "reconstructions", "codes"])
        ```
    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    batches = [_batch(row, n) for n, row in enumerate(rows)]
    counts = sorted({len(batch) for batch in batches})
    if len(counts) != 1:
        raise ValueError(f"show takes one or more arguments of as many images each, not of {counts or 'none'}")
    names = list(labels) if len(rows) == 1 and len(labels) == counts[0] > 1 else []
    captions = [None] * len(rows) if names or not labels else list(labels)
    if len(captions) != len(rows):
        raise ValueError(f"labels are {len(labels)}, but there are {len(rows)} arguments and {counts[0]} images")
    pictures = {n: list(map(_picture, batch)) for n, batch in enumerate(batches) if not _holds_codes(batch[0])}
    sizes = [_size([row[i] for row in pictures.values()]) for i in range(counts[0])]
    drawn = []
    for start in range(0, counts[0], columns):
        part = slice(start, start + columns)
        for n, (batch, caption) in enumerate(zip(batches, captions, strict=True)):
            if n in pictures:
                scaled = [_scaled(own, size) for own, size in zip(pictures[n][part], sizes[part], strict=True)]
                drawn.append(PictureRow(scaled, caption, names[part]))
            else:
                drawn += _code_rows(batch[part], sizes[part], caption, layout)
    return stacked(drawn)


def _batch(row: Tensor | Sequence[Tensor], number: int) -> list[Tensor]:
    """Images (c, H, W) or codes (k, h, w) of an argument."""
    parts = row if isinstance(row, list | tuple) else [row]
    found: list[Tensor] = []
    for part in parts:
        tensor = torch.as_tensor(part).detach().cpu()
        if tensor.ndim not in (3, 4) or tensor.dtype == torch.bool or tensor.is_complex() or not tensor.numel():
            raise ValueError(
                f"argument {number} has the shape {tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}: "
                "show takes images (b, c, H, W) and codes (b, k, h, w)"
            )
        if tensor.is_floating_point() and tensor.min() >= 0 and tensor.max() > 2:
            raise ValueError(f"argument {number} has floats up to {tensor.max():.3g}: images are in [-1, 1], or uint8")
        found += tensor if tensor.ndim == 4 else [tensor]
    if len({_holds_codes(own) for own in found}) > 1:
        raise ValueError(f"argument {number} has images and codes: they are arguments of their own")
    return found


def _holds_codes(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and tensor.dtype != torch.uint8


def _picture(image: Tensor) -> Image.Image:
    """Picture of an image (c, H, W), as it is."""
    levels = to_uint8(image) if image.is_floating_point() else image
    rgb = RGBView(len(levels)).picture(levels[None])[0]
    return Image.fromarray(np.ascontiguousarray(rgb.permute(1, 2, 0).numpy()))


def _size(column: Sequence[Image.Image]) -> tuple[int, int]:
    """Size (width, height) of a column: that of its first picture, enlarged or reduced; without any, of no height."""
    if not column:
        return CELL, 0
    first = column[0]
    factor = max(1, CELL // first.width) if max(first.size) < LARGEST else LARGEST / max(first.size)
    return max(1, round(first.width * factor)), max(1, round(first.height * factor))


def _scaled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.resize(size, Image.Resampling.LANCZOS if picture.width > size[0] else Image.Resampling.NEAREST)


def _code_rows(
    codes: Sequence[Tensor], sizes: Sequence[tuple[int, int]], caption: str | None, layout: "Layout | None"
) -> list[PictureRow]:
    """A row for each scale and codebook of codes (k, *positions), below images of the sizes (width, height)."""
    split = [(own[None].long(),) if layout is None else layout.split(own[None].long()) for own in codes]
    scales, codebooks = {len(maps) for maps in split}, {own.shape[0] for own in codes}
    if len(scales) > 1 or len(codebooks) > 1:
        raise ValueError(f"codes of one argument have {sorted(codebooks)} codebooks and {sorted(scales)} scales")
    rows = []
    for scale in range(scales.pop()):
        for k in range(len(codes[0])):
            maps = [own[scale][0, k].numpy() for own in split]
            different, legend = frequent(maps)
            h, w = maps[0].shape
            names = [caption] if caption else []
            names += [f"scale {scale}"] if len(split[0]) > 1 else []
            names += [f"codebook {k}"] if len(codes[0]) > 1 else []
            text = f"{', '.join(names) or 'codes'} ({h} x {w}, {different} different)"
            rows.append(PictureRow([_map(own, size) for own, size in zip(maps, sizes, strict=True)], text, (), legend))
    return rows


def _map(codes: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Map of codes (h, w) as large as the image above it; a sequence, or one without an image, in whole squares."""
    drawn = token_map(codes)
    side = max(1, size[0] // drawn.width)
    sequence = len(codes) == 1 < codes.size
    return drawn.resize(
        (drawn.width * side, drawn.height * side) if sequence or not size[1] else size, Image.Resampling.NEAREST
    )
