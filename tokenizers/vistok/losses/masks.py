"""Means over the pixels that are known."""

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean of values (b, c, H, W): over all pixels, or over those that ``mask`` (b, 1, H, W) bool says are known.

    NaN where it says so of none.
    """
    if mask is None:
        return values.mean()
    known = mask.expand_as(values)
    return values.where(known, 0).sum() / known.sum()
