"""The way from image files to a tokenizer's input: decoding and crops."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from vistok.images.crops import Transform
from vistok.images.evaluation_crops import BILINEAR, NATIVE, Stacked, TorchvisionResize, crop_transforms
from vistok.images.ranges import to_nearest_float


class Preparation(NamedTuple):
    """The part of a protocol that determines reconstructions: protocols with the same one share them."""

    crop: str  # of ``evaluation_crops.CROPS``, or ``NATIVE``: images as they are, of any size
    decoding: str = "upright"  # or "stored"
    size: int | None = None  # side in pixels at which images are compared, if it is not that of the tokenizer's input

    @property
    def name(self) -> str:
        """Name for reports, such as ``adm``, ``adm_stored`` or ``adm_stored_256``."""
        return "_".join([self.crop, *["stored"] * self.stored, *[str(self.size)] * (self.size is not None)])

    @property
    def stored(self) -> bool:
        return self.decoding == "stored"

    @property
    def native(self) -> bool:
        return self.crop == NATIVE

    def transforms(self, image_size: int) -> list[Transform]:
        """Transforms of an image to the tokenizer's input, with the image to compare below it if the sizes differ.

        That image is the same crop made at its own size. Without resizing it would show less of the scene, so there it
        is the input resized by torchvision (FVQ's ``crop_image.py`` with ``is_resize``).
        """
        crop = crop_transforms(self.crop, image_size)
        if self.size is None:
            return crop
        compared = crop_transforms(self.crop, self.size)
        return [
            Stacked(
                crop, [*crop, TorchvisionResize(self.size, BILINEAR)] if self.crop == "none" else compared, image_size
            )
        ]

    def split(self, images: Tensor, image_size: int) -> tuple[Tensor, Tensor]:
        """The tokenizer's input and the images to compare, uint8, from what ``transforms`` gave."""
        if self.size is None:
            return images, images
        if images.shape[-2] == image_size:
            raise ValueError(f"protocol: size={self.size} needs image files, which are cropped twice, not ready crops")
        return images[:, :, :image_size], images[:, :, image_size:, : self.size]

    def resized(self, images: Tensor) -> Tensor:
        """Images (b, 3, H, W) in [-1, 1] at the size of the comparison.

        The resize is LlamaGen's: bicubic, without antialiasing, of floats that are not clamped.
        """
        return images if self.size is None else F.interpolate(images.float(), (self.size, self.size), mode="bicubic")

    def targets(self, images: Tensor) -> Tensor | None:
        """The resized input (b, 3, H, W) in [-1, 1] that distances compare with; None if they compare with images."""
        return None if self.size is None else self.resized(to_nearest_float(images))
