"""Picture of decoded tokens, to check their tokenizer, crop and order by eye."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image

from vistok.images.ranges import to_uint8
from vistok.plots.picture_rows import labelled_tiles
from vistok.tokenizer import Tokenizer
from vistok.tokens.store import TokenStore

COLUMNS = 8  # images in a row
SIDE = 256  # pixels of the square for an image of native size


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
    tokenizer.eval()
    decoded = torch.cat([_decoded(store, tokenizer, i) for i in images])  # (images · v, 3, H, W) uint8
    views = store.header.num_views
    captions = [_caption(store, i) if view == 0 else "" for i in images for view in range(views)]
    return labelled_tiles(decoded, captions, max(1, COLUMNS // views) * views)


def _decoded(store: TokenStore, tokenizer: Tokenizer, i: int) -> torch.Tensor:
    """Views of an image (v, 3, H, W) uint8; an image of native size at the top left of a white square of ``SIDE``."""
    header, (height, width) = store.header, store.size(i)
    codes = header.complete_codes(torch.from_numpy(store.codes(i)))
    if not header.native:
        return to_uint8(tokenizer.detokenize(codes, (height, width)))
    images = tokenizer.detokenize(codes, tile=header.tile, overlap=header.overlap)[..., :height, :width]
    scale = SIDE / max(height, width)
    size = [max(1, round(scale * side)) for side in (height, width)]
    square = images.new_full((len(images), images.shape[1], SIDE, SIDE), 255, dtype=torch.uint8)
    square[..., : size[0], : size[1]] = to_uint8(F.interpolate(images, size, mode="bilinear", antialias=True))
    return square


def _caption(store: TokenStore, i: int) -> str:
    """Class of an image, or the end of its name if it has no label."""
    label, classes = store.label(i), store.header.classes
    if label < 0:
        return store.names[i].rpartition("/")[2]
    return classes[label] if classes and label < len(classes) else f"class {label}"
