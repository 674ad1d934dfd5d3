"""Picture of decoded tokens, to check their tokenizer, crop and order by eye."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from vistok.images.ranges import to_uint8
from vistok.plots import CAPTION, GAP, tiles
from vistok.tokenizer import Tokenizer
from vistok.tokens.store import TokenStore

COLUMNS, LEAST = 8, 96  # images in a row; smallest side of an image in pixels


def sheet(store: TokenStore, tokenizer: Tokenizer, images: Sequence[int]) -> Image.Image:
    """Decoded images below their classes, with the views of each image side by side.

    Args:
        store: The tokens.
        tokenizer: The tokenizer that made them.
        images: Indices of the images.

    Raises:
        ValueError: The tokenizer did not make these tokens.
    """
    store.header.check_tokenizer(tokenizer)
    size = (store.header.image_size, store.header.image_size)
    decoded = torch.cat(
        [to_uint8(tokenizer.eval().detokenize(torch.from_numpy(store.codes(i)), size)) for i in images]
    )  # (images · v, 3, H, W)
    views = store.header.num_views
    captions = [_caption(store, i) if view == 0 else "" for i in images for view in range(views)]
    return labelled_tiles(decoded, captions, max(1, COLUMNS // views) * views)


def labelled_tiles(images: torch.Tensor, captions: Sequence[str], columns: int) -> Image.Image:
    """Images (n, 3, H, W) uint8 in rows, each below its caption; small images are enlarged by an integer factor."""
    height, width = images.shape[-2:]
    factor = max(1, -(-LEAST // width))
    size = (width * factor, height * factor)
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (size[0] + GAP) + GAP, rows * (CAPTION + size[1]) + GAP), (255, 255, 255))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for n, (picture, text) in enumerate(zip(tiles(images, size), captions, strict=True)):
        left, top = GAP + n % columns * (size[0] + GAP), n // columns * (CAPTION + size[1])
        while text and draw.textlength(text, font=font) > size[0]:
            text = text[:-1]
        draw.text((left, top + CAPTION // 2), text, fill=(40, 40, 40), font=font, anchor="lm")
        canvas.paste(picture, (left, top + CAPTION))
    return canvas


def _caption(store: TokenStore, i: int) -> str:
    """Class of an image, or the end of its name if it has no label."""
    label, classes = store.label(i), store.header.classes
    if label < 0:
        return store.names[i].rpartition("/")[2]
    return classes[label] if classes and label < len(classes) else f"class {label}"
