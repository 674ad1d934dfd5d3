"""Images and reconstructions of a batch in the forms that protocols compare."""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistok.evaluation.protocols import Protocol
from vistok.images.crops import to_tensor
from vistok.images.decoding import read_rgb
from vistok.images.ranges import to_float, to_uint8
from vistok.metrics.feature_networks import FeatureNetwork


class Pairs:
    """Images and reconstructions of a batch in the forms that protocols compare; each form is computed once.

    Args:
        images: (b, 3, H, W) uint8.
        reconstruction: The same shape, float in [-1, 1], unclamped.
    """

    def __init__(self, images: Tensor, reconstruction: Tensor):
        self.images, self.reconstruction = images, reconstruction
        self.cache: dict = {}

    def once(self, key: tuple, make: Callable):
        """Returns ``make()``, computed at the first call with this key and cached."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def floats(self) -> tuple[Tensor, Tensor]:
        """Reconstructions, clamped, and images, both in [-1, 1]."""
        return self.once(("floats",), lambda: (self.reconstruction.float().clamp(-1, 1), to_float(self.images)))

    def levels(self, protocol: Protocol) -> tuple[Tensor, Tensor]:
        """Reconstructions and images as 8-bit values, rounded as the protocol says."""
        if protocol.rounding == "truncate":
            return self.once(("truncate",), lambda: tuple(truncated(side) for side in self.floats()))
        return self.once(("nearest",), lambda: (to_uint8(self.reconstruction), self.images))

    def network_inputs(self, protocol: Protocol, network: FeatureNetwork) -> tuple[Tensor, Tensor]:
        """Inputs of a feature network: 8-bit images after the protocol's file format, or floats from 0 to 255."""
        if protocol.frechet == "float" and not network.only_uint8:
            return self.once(("float255",), lambda: tuple((side + 1) * 127.5 for side in self.floats()))
        sides = self.levels(protocol)
        if protocol.file == "png":
            return sides
        return self.once(("jpeg", protocol.rounding), lambda: tuple(through_jpeg(side) for side in sides))


def truncated(images: Tensor) -> Tensor:
    """[-1, 1] to 8 bits: ``255 (x + 1) / 2`` truncated, in float32."""
    return ((images + 1) / 2 * 255).to(torch.uint8)


def through_jpeg(images: Tensor) -> Tensor:
    """Images (b, 3, H, W) uint8 after Pillow has written and read them as JPEG at its default quality, 75."""
    decoded = []
    for image in images.permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(file, "JPEG")
        decoded.append(to_tensor(read_rgb(file)))
    return torch.stack(decoded).to(images.device)
