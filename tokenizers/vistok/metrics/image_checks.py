"""Checks of images before they are compared: a wrong range or dtype would give a plausible number."""

import torch
from torch import Tensor

from vistok.images.ranges import to_uint8

TOLERANCE = 1e-3  # of the range [-1, 1], for images that were computed
FARTHEST = 16.0  # largest absolute value of a reconstruction; 8-bit levels as floats are larger


def check_shapes(reconstruction: Tensor, images: Tensor, smallest: int = 1, why: str = "SSIM's window") -> None:
    """Refuses pairs that are not images of one shape; reads no pixels, so that no device has to finish.

    Args:
        reconstruction: (b, c, H, W) uint8 or float.
        images: The same shape.
        smallest: Smallest height and width in pixels.
        why: Reason of it, for the message.

    Raises:
        ValueError: The message names the shapes or dtypes.
    """
    for name, side in (("reconstruction", reconstruction), ("images", images)):
        if side.ndim != 4:
            raise ValueError(f"{name} of the shape {tuple(side.shape)} must be (b, c, H, W)")
        if side.dtype != torch.uint8 and not side.is_floating_point():
            raise ValueError(f"{name} of {str(side.dtype).removeprefix('torch.')} must be uint8, or float in [-1, 1]")
    if reconstruction.shape != images.shape:
        raise ValueError(
            f"reconstruction {tuple(reconstruction.shape)} and images {tuple(images.shape)} differ in shape"
        )
    if min(images.shape[-2:]) < smallest:
        size = "x".join(map(str, images.shape[-2:]))
        raise ValueError(f"images of {size} pixels are smaller than {why} of {smallest}")


def check_range(images: Tensor, name: str = "images", low: float = -1.0, high: float = 1.0) -> None:
    """Refuses float images outside a range, or with NaN; waits for their device.

    Args:
        images: Images of any shape; uint8 has no other range and passes.
        name: Name of the images, for the message.
        low: Smallest value.
        high: Largest value.

    Raises:
        ValueError: The message has the range of the images.
    """
    if not images.is_floating_point() or not images.numel():
        return
    least, most = (value.item() for value in images.detach().aminmax())
    slack = TOLERANCE * (high - low) / 2
    if not (low - slack <= least and most <= high + slack):
        raise ValueError(f"{name} must be uint8, or float in [{low:g}, {high:g}], not from {least:.4g} to {most:.4g}")


def checked_levels(
    reconstruction: Tensor, images: Tensor, smallest: int = 1, why: str = "SSIM's window"
) -> tuple[Tensor, Tensor]:
    """Both sides as 8-bit levels, after all checks: uint8 as it is, floats rounded to the nearest level.

    Args:
        reconstruction: (b, c, H, W), uint8, or float as a decoder returns it: around [-1, 1], and clamped here.
        images: The same shape, uint8, or float in [-1, 1]. Floats in [0, 1] cannot be recognized.
        smallest: Smallest height and width in pixels.
        why: Reason of it, for the message.

    Raises:
        ValueError: The message names shapes, dtypes or ranges.
    """
    check_shapes(reconstruction, images, smallest, why)
    check_range(images)
    check_range(reconstruction, "reconstruction", -FARTHEST, FARTHEST)
    first, second = (side if not side.is_floating_point() else to_uint8(side) for side in (reconstruction, images))
    return first, second
