"""Checks of the images that a user gives to a tokenizer. A compiled or exported graph has none of them."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LARGEST = 1.5  # interpolation passes the ends of [-1, 1] by less
DARK = 0.1  # images in [0, 1] nearly always have a value below it, as images in [-1, 1] have one below 0


def check_shape(images: Any, channels: int | None) -> None:
    """Refuses everything that is not a batch of images (b, c, H, W).

    Args:
        images: The argument.
        channels: Number of channels c of the tokenizer; None for any number.
    """
    if torch.compiler.is_compiling():
        return
    form = f"(b, {channels or 'c'}, H, W)"
    if not isinstance(images, Tensor):
        raise ValueError(
            f"images are a {type(images).__name__}, not a tensor {form}: vistok.read_image makes one of a file, a "
            "Pillow image or an array"
        )
    shape = tuple(images.shape)
    order = "2, 0, 1)[None]" if len(shape) == 3 else "0, 3, 1, 2)"
    last = f": channels come before height and width, images.permute({order}"
    if len(shape) == 3:
        hint = last if channels and shape[0] != channels == shape[2] else ": images[None] is a batch of one image"
        raise ValueError(f"images have the shape {shape}, not {form}{hint}")
    if len(shape) != 4:
        raise ValueError(f"images have the shape {shape}, not {form}")
    if channels and shape[1] != channels:
        if shape[3] == channels:
            raise ValueError(f"images have the shape {shape}, not {form}{last}")
        hints = {(1, 3): ": images.expand(-1, 3, -1, -1) repeats grey", (4, 3): ": images[:, :3] has no opacity"}
        raise ValueError(
            f"images have {shape[1]} channel{'s' * (shape[1] != 1)}, but the tokenizer takes {channels}"
            f"{hints.get((shape[1], channels), '')}"
        )
    if not math.prod(shape):
        raise ValueError(f"images are empty: their shape is {shape}")


def check_type(images: Tensor, device: torch.device) -> None:
    """Refuses images that are not floats, or not on the tokenizer's device."""
    if torch.compiler.is_compiling():
        return
    if not images.is_floating_point():
        hint = ": images / 127.5 - 1 makes them from 0 to 255" if images.dtype != torch.bool else ""
        raise ValueError(f"images are {str(images.dtype).removeprefix('torch.')}, not floats in [-1, 1]{hint}")
    check_device("images", images, device)


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """Refuses a tensor that is on another device than the tokenizer; ``name`` is the user's argument."""
    if not torch.compiler.is_compiling() and tensor.device != device:
        raise ValueError(f"{name} are on {tensor.device}, but the tokenizer is on {device}: {name}.to({str(device)!r})")


def check_size(size: Any) -> None:
    """Refuses a size of images that is not a pair of positive integers (H, W)."""
    if torch.compiler.is_compiling():
        return
    if isinstance(size, int):
        raise ValueError(f"size={size} is one number, not (H, W) in pixels: size=({size}, {size}) for square images")
    sides = tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(isinstance(side, int | torch.SymInt) and side > 0 for side in sides):
        raise ValueError(f"size={size!r} is not (H, W), two positive integers in pixels")


def check_range(images: Tensor) -> None:
    """Refuses floats that cannot be in [-1, 1], and warns about such that may be in [0, 1].

    It reads every value and waits for a GPU, so it belongs where codes are wanted, never in a step of training.
    """
    if torch.compiler.is_compiling() or not images.is_floating_point() or images.is_meta:
        return
    low, high = torch.stack(images.detach().aminmax()).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("images hold NaN or infinite values")
    if max(-low, high) > LARGEST:
        if low >= 0:
            hint = "images / 127.5 - 1 for values from 0 to 255"
        else:
            hint = "a normalisation by mean and standard deviation has to be undone, and a reconstruction clamped"
        raise ValueError(f"images have values from {low:.3g} to {high:.3g}, but a tokenizer takes [-1, 1]: {hint}")
    if 0 <= low < DARK and low < high:
        warnings.warn(
            f"images have values from {low:.3g} to {high:.3g}, and a tokenizer takes [-1, 1]: use images * 2 - 1 if "
            "they are in [0, 1]",
            stacklevel=4,  # the line that called the tokenizer's method, behind torch.no_grad's wrapper
        )
