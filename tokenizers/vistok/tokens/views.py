"""Views of an image for the training of generators: flips, and LlamaGen's ten crops (arXiv:2406.06525, code)."""

import torch
from torch import Tensor

VIEWS = {"none": 1, "flip": 2, "ten": 10}
TEN_CROP_SCALE = 1.1  # side of the square for ten crops, relative to the side of a crop (LlamaGen's scripts)


def views_of(image: Tensor, views: str, size: int) -> Tensor:
    """Views of a square image (3, S, S) as (v, 3, size, size); S is ``size`` unless ``views`` is ``ten``.

    ``flip`` is the image and its mirror image; ``ten`` is the crops at top left, top right, bottom left, bottom right
    and centre, then the same five of the mirror image.
    """
    if views == "ten":
        from torchvision.transforms.functional import ten_crop

        return torch.stack(ten_crop(image, [size, size]))
    return torch.stack([image, image.flip(-1)] if views == "flip" else [image])
