"""Alignment of a decoder layer's features with those of a frozen teacher (GigaTok, arXiv:2504.08736, and code).

A layer loss is ``loss(feature, images)`` with an attribute ``layer``; ``feature`` is what that layer computes in
training.
"""

import math

from einops import rearrange
from torch import Tensor, nn

from vistok.losses.alignment import patch_distance
from vistok.losses.teachers import Teacher


class LayerAlignment(nn.Module):
    """Cosine distance between the teacher's patch features and an MLP's prediction from a layer's features.

    The loss is one minus the mean cosine; the authors log minus the mean cosine, which has the same gradient. Theirs
    takes as many tokens as the teacher has patches; here the prediction is resized to the teacher's grid.

    Args:
        layer: Name of the layer in the tokenizer, such as ``decoder.transformer.blocks.2``. It gives a map
            (b, dim, h, w), or tokens (b, h w, dim) of the whole image, row by row.
        teacher: Teacher of features of patches (b, n, teacher.dim) on a square grid.
        dim: Channels of the layer's features.
        hidden: Channels of the two hidden layers of the MLP; None for ``4 * dim``, as published.
    """

    def __init__(self, layer: str, teacher: Teacher, dim: int, hidden: int | None = None):
        super().__init__()
        if not teacher.patches:
            raise ValueError("patches=False: this loss compares patches, so the teacher must give their features")
        width = 4 * dim if hidden is None else hidden
        self.layer, self.teacher, self.dim = layer, teacher, dim
        self.predictor = nn.Sequential(
            nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, teacher.dim)
        )

    def forward(self, feature: Tensor, images: Tensor) -> Tensor:
        tokens = as_grid(feature, self.dim, images, self.layer)
        return patch_distance(rearrange(self.predictor(tokens), "b h w d -> b d h w"), self.teacher(images))


def as_grid(feature: Tensor, dim: int, images: Tensor, layer: str) -> Tensor:
    """Features of a layer as (b, h, w, dim); tokens (b, n, dim) are laid out in the images' aspect ratio.

    Raises:
        ValueError: The features have other channels, or their tokens make no such grid.
    """
    shape = tuple(feature.shape)
    if feature.ndim == 4 and shape[1] == dim:
        return rearrange(feature, "b d h w -> b h w d")
    height, width = images.shape[-2:]
    if feature.ndim == 3 and shape[2] == dim:
        h = round(math.sqrt(shape[1] * height / width))
        if h and shape[1] % h == 0 and h * width == shape[1] // h * height:
            return rearrange(feature, "b (h w) d -> b h w d", h=h)
    raise ValueError(
        f"layer={layer} gives {shape}; dim={dim} needs a map (b, {dim}, h, w), or (b, n, {dim}) with the n tokens of "
        f"a grid over the image of {height}x{width} pixels"
    )
