"""Distances over which the outputs of a tokenizer's networks depend on their inputs.

One position of the input is NaN; it makes NaN of every output that depends on it. The result is exact for convolutions
with padding of any kind. Norms over all positions and attention have no bound. Position embeddings remain undetected.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vistok.tokenizer import Tokenizer

HEIGHT = 4  # positions across the strip of the measurement, enough for padding by reflection


@torch.no_grad()
def encoder_reach(tokenizer: "Tokenizer", most: int) -> float:
    """Latent positions beside a window that the latent within the window depends on, in both directions.

    Args:
        tokenizer: The tokenizer.
        most: Largest reach that is measured.

    Returns:
        The reach; infinite if it is above ``most``.
    """
    f, channels = tokenizer.factor, tokenizer.channels
    multiple = tokenizer.quantizer.grid_multiple

    def latent(strip: Tensor) -> Tensor:
        images = strip.repeat_interleave(f, dim=2).repeat_interleave(f, dim=3)
        return tokenizer.encode(images.expand(-1, channels, -1, -1))

    return _reach(tokenizer, latent, 1, multiple, most)


@torch.no_grad()
def decoder_reach(tokenizer: "Tokenizer", most: int) -> float:
    """Latent positions beside a window that the image of the window depends on. See ``encoder_reach``."""
    f = tokenizer.factor

    def touched(strip: Tensor) -> Tensor:
        images = tokenizer.decode(strip)
        return images.unflatten(3, (-1, f)).sum(4).unflatten(2, (-1, f)).sum(3)  # NaN if any pixel of a position is

    return _reach(tokenizer, touched, tokenizer.quantizer.dim, 1, most)


def _reach(tokenizer: "Tokenizer", network, channels: int, multiple: int, most: int) -> float:
    """Farthest output position from the NaN, along both axes."""
    device = next(iter(tokenizer.parameters())).device
    length = multiple * -(-(2 * most + 3) // multiple)
    at, found = length // 2, 0.0
    for axis in (3, 2):
        shape = [1, channels, HEIGHT * multiple, length]
        strip = torch.zeros(shape, device=device)
        strip[..., at] = math.nan
        output = network(strip if axis == 3 else strip.transpose(2, 3).contiguous())
        lost = output.isnan().any(dim=1)[0].any(dim=1 if axis == 2 else 0).nonzero().flatten()
        if len(lost):
            found = max(found, at - int(lost[0]), int(lost[-1]) - at)
        if found > most:
            return math.inf
    return found
