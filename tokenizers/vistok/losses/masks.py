"""Means over known pixels."""

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of values (b, c, H, W) over all pixels, or over those where ``mask`` (b, 1, H, W) bool is True.

    NaN if no pixel is known.
    """
    if mask is None:
        return values.mean()
    known = mask.expand_as(values)
    return values.where(known, 0).sum() / known.sum()
