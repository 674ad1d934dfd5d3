"""Picture of decoded tokens, to check their tokenizer, crop and order by eye."""

from collections.abc import Sequence

import torch
from PIL import Image

from vistok.images.ranges import to_uint8
from vistok.plots import labelled_tiles
from vistok.tokenizer import Tokenizer
from vistok.tokens.store import TokenStore

COLUMNS = 8  # images in a row


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

    def codes(i: int) -> torch.Tensor:
        return store.header.complete_codes(torch.from_numpy(store.codes(i)))

    decoded = torch.cat(
        [to_uint8(tokenizer.eval().detokenize(codes(i), size)) for i in images]
    )  # (images · v, 3, H, W)
    views = store.header.num_views
    captions = [_caption(store, i) if view == 0 else "" for i in images for view in range(views)]
    return labelled_tiles(decoded, captions, max(1, COLUMNS // views) * views)


def _caption(store: TokenStore, i: int) -> str:
    """Class of an image, or the end of its name if it has no label."""
    label, classes = store.label(i), store.header.classes
    if label < 0:
        return store.names[i].rpartition("/")[2]
    return classes[label] if classes and label < len(classes) else f"class {label}"
