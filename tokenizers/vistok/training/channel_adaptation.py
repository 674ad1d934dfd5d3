"""Weights of a tokenizer of RGB images as the start of one of other channels.

Only the first convolution of the encoder and the last one of the decoder know the number of channels. Grey inputs get
the sum of the weights of red, green and blue, so that grey images give the same latent as before; N inputs get an N-th
of it each. Outputs are the mean of red, green and blue. Bands that are red, green and blue keep their weights: then the
other inputs start at zero.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vistok.images.rgb_view import RGBA, RGBView

COLOURS = 3
FIRST, LAST = "encoder.conv_in.", "decoder.conv_out."


def adapted(weights: Mapping[str, Tensor], model: Mapping[str, Tensor], view: RGBView) -> dict[str, Tensor]:
    """Weights whose first and last convolution have the shapes of ``model``; others are unchanged.

    Args:
        weights: Weights of a tokenizer of three channels.
        model: Weights of the tokenizer to train, of ``view.channels`` channels.
        view: Channels that are red, green and blue, where they are known.
    """
    result = dict(weights)
    bands = view.bands or (tuple(range(COLOURS)) if view.channels == RGBA else None)
    for name, theirs in weights.items():
        here = model.get(name)
        nested = name.startswith("decoder.") and ".conv_out." in name
        if here is None or theirs.shape == here.shape or not (name.startswith((FIRST, LAST)) or nested):
            continue
        differ = [d for d, (a, b) in enumerate(zip(theirs.shape, here.shape, strict=False)) if a != b]
        if theirs.ndim != here.ndim or len(differ) != 1:
            continue
        (dim,) = differ
        if theirs.shape[dim] * view.channels != here.shape[dim] * COLOURS:
            continue
        parts = torch.stack(theirs.chunk(COLOURS, dim))  # red, green, blue; each may be a square of pixels
        into = name.startswith(FIRST)
        other = torch.zeros_like(parts[0]) if into and bands else parts.mean(0)
        new = [other] * view.channels
        if bands:
            for band, part in zip(bands, parts, strict=True):
                new[band] = part
        elif into:
            new = [parts.sum(0) / view.channels] * view.channels
        result[name] = torch.cat(new, dim)
    return result
