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
from vistok.images.ranges import to_nearest_float, to_uint8
from vistok.images.rgb_view import RGBView
from vistok.metrics.feature_networks import FeatureNetwork


class Pairs:
    """Images and reconstructions of a batch in the forms that protocols compare; each form is computed once.

    Args:
        images: (b, c, H, W) uint8.
        reconstruction: The same shape, float in [-1, 1], unclamped.
        targets: The same shape, float in [-1, 1], unclamped: what distances compare with in place of the images.
        stored: The reconstruction as uint8 if it is of 8 bits already: no protocol rounds it again.
        view: Channels that networks look at.
    """

    def __init__(
        self,
        images: Tensor,
        reconstruction: Tensor,
        targets: Tensor | None = None,
        stored: Tensor | None = None,
        view: RGBView = RGBView(),
    ):
        self.images, self.reconstruction, self.targets, self.stored = images, reconstruction, targets, stored
        self.view = view
        self.cache: dict = {}

    def once(self, key: tuple, make: Callable):
        """Returns ``make()``, computed at the first call with this key and cached."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def floats(self) -> tuple[Tensor, Tensor]:
        """Reconstructions, clamped, and images, both in [-1, 1]."""
        return self.once(("floats",), lambda: (self.reconstruction.float().clamp(-1, 1), to_nearest_float(self.images)))

    def levels(self, protocol: Protocol) -> tuple[Tensor, Tensor]:
        """Reconstructions and images as 8-bit values, rounded as the protocol says."""
        reconstruction, images = self.once((protocol.rounding,), lambda: ROUNDINGS[protocol.rounding](self))
        return reconstruction if self.stored is None else self.stored, images

    def compared(self, protocol: Protocol) -> tuple[Tensor, Tensor]:
        """Inputs of all distances but LPIPS, on a scale of 0 to 255: reconstructions, and images or targets."""
        reconstruction, images = self._scaled() if protocol.pixels == "float" else self.levels(protocol)
        return reconstruction, images if self.targets is None else (self.targets + 1) * 127.5

    def lpips_inputs(self, protocol: Protocol) -> tuple[Tensor, Tensor]:
        """Inputs of LPIPS in [-1, 1] but for ``doubled``: reconstructions, and images or targets."""
        reconstruction, images = self.floats()
        if protocol.lpips == "uint8":
            reconstruction, images = map(to_nearest_float, self.levels(protocol))
        images = images if self.targets is None else self.targets
        if protocol.lpips == "doubled":
            reconstruction, images = 2 * self.reconstruction.float() - 1, 2 * images - 1
        return self.view(reconstruction), self.view(images)

    def network_inputs(self, protocol: Protocol, network: FeatureNetwork) -> tuple[Tensor, Tensor]:
        """Inputs of a feature network: 8-bit images after the protocol's file format, or floats from 0 to 255."""
        if protocol.frechet == "float" and not network.only_uint8:
            return tuple(map(self.view, self._scaled()))
        sides = tuple(map(self.view, self.levels(protocol)))
        if protocol.file == "png":
            return sides
        return self.once(("jpeg", protocol.rounding), lambda: tuple(through_jpeg(side) for side in sides))

    def _scaled(self) -> tuple[Tensor, Tensor]:
        return self.once(("scaled",), lambda: tuple((side + 1) * 127.5 for side in self.floats()))


def truncated(images: Tensor) -> Tensor:
    """[-1, 1] to 8 bits: ``255 (x + 1) / 2`` truncated, in float32."""
    return ((images + 1) / 2 * 255).to(torch.uint8)


def truncated_by_one_factor(images: Tensor) -> Tensor:
    """[-1, 1] to 8 bits: ``127.5 (x + 1)`` truncated, divided and multiplied by 255 in between as VQGAN-LC does it."""
    return ((images + 1) * 127.5 / 255 * 255).to(torch.uint8)


ROUNDINGS: dict[str, Callable[[Pairs], tuple[Tensor, Tensor]]] = {
    "nearest": lambda pairs: (to_uint8(pairs.reconstruction), pairs.images),
    "truncate": lambda pairs: tuple(map(truncated, pairs.floats())),
    "truncate_reconstructions": lambda pairs: (truncated_by_one_factor(pairs.floats()[0]), pairs.images),
}


def through_jpeg(images: Tensor) -> Tensor:
    """Images (b, 3, H, W) uint8 after Pillow has written and read them as JPEG at its default quality, 75."""
    decoded = []
    for image in images.permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(file, "JPEG")
        decoded.append(to_tensor(read_rgb(file)))
    return torch.stack(decoded).to(images.device)
