"""User's settings of the conversion from images to tokens, checked before any work."""

from dataclasses import dataclass

import torch

from vistok.images.crops import Transform
from vistok.images.evaluation_crops import CROPS, NATIVE, crop_transforms
from vistok.tokens.views import TEN_CROP_SCALE, VIEWS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TokenProtocol:
    """Settings of the conversion from images to tokens.

    Attributes:
        image_size: Side in pixels of the square that the tokenizer gets; not used by ``native``.
        crop: ``adm``, ``bicubic``, ``bilinear``, ``opencv`` or ``none``, as in evaluation, or ``native`` for images in
            their own size, one by one.
        views: ``none``, ``flip`` (the image and its mirror image) or ``ten`` (LlamaGen's ten crops).
        dtype: ``float32``, or ``bfloat16`` for autocast, which is faster on a GPU and changes some codes.
        batch_size: Number of images in a forward pass.
        rate: Share of regions that get fine codes, in [0, 1], for a dynamic head; None lets the router decide.
        order: Order of a dynamic head's sequences: ``region`` or ``row``.
        split_bits: Bits of each part of a code, lowest first, to store codes in parts; None stores them as they are.
        tile: Side in pixels of the tiles in which images of native size pass the networks; None for full images.
        overlap: Pixels of a tile beside its own part, at each side; None for the default (``vistok.tiles``).
    """

    image_size: int = 256
    crop: str = "adm"
    views: str = "none"
    dtype: str = "float32"
    batch_size: int = 32
    rate: float | None = None
    order: str = "region"
    split_bits: tuple[int, ...] | None = None
    tile: int | None = None
    overlap: int | None = None

    def __post_init__(self):
        for name, value, known in (
            ("crop", self.crop, (*CROPS, NATIVE)),
            ("views", self.views, VIEWS),
            ("dtype", self.dtype, DTYPES),
            ("order", self.order, ("region", "row")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} must be one of {', '.join(known)}")
        for name in ("image_size", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

        if self.native and (self.views == "ten" or self.rate is not None):
            raise ValueError(f"crop={NATIVE} takes neither views=ten nor rate")
        if self.native and self.batch_size != 1:
            raise ValueError(f"batch_size={self.batch_size} must be 1 with crop={NATIVE}, whose sizes differ")
        if self.tile is not None and not self.native:
            raise ValueError(f"tile={self.tile} needs crop={NATIVE}")
        if self.overlap is not None and self.tile is None:
            raise ValueError(f"overlap={self.overlap} needs a tile")

    @property
    def native(self) -> bool:
        """True for images in their own size."""
        return self.crop == NATIVE

    @property
    def square(self) -> int:
        """Side in pixels of the square from which views are cropped."""
        return int(self.image_size * TEN_CROP_SCALE) if self.views == "ten" else self.image_size

    @property
    def transforms(self) -> list[Transform]:
        """Transforms from a Pillow image to that square; none for native sizes."""
        return crop_transforms(self.crop, self.square)
