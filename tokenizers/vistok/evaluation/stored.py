"""Reconstructions that any model wrote to disk, scored like those of a tokenizer."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistok.data.batches import Batch
from vistok.data.named_images import open_images
from vistok.data.shards import Data
from vistok.distributed.collectives import gather_objects, rank_and_size
from vistok.evaluation.matching import in_sorted_order, matched
from vistok.evaluation.preparation import Preparation
from vistok.evaluation.reconstructions import Reading, Reconstructed, Reconstructions
from vistok.files import encodable
from vistok.images.crops import to_tensor
from vistok.images.decoding import read_rgb
from vistok.images.evaluation_crops import crop_transforms
from vistok.images.ranges import to_nearest_float
from vistok.images.rgb import UnreadableImage

LOSSY = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    ".webp": "WebP",
    ".avif": "AVIF",
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"), "JPEG 2000"),
}  # formats by extension; all but JPEG may also be lossless


class StoredReconstructions(Reconstructions):
    """Reconstructions in a folder, in tars, or in an ``.npz`` file; see ``named_images``.

    8-bit levels u become floats u / 127.5 - 1. Where a protocol compares 8-bit images, it compares these levels: no
    rounding is applied to them.

    Args:
        path: Path of the reconstructions.
        data: The images that they are of.

    Raises:
        ValueError: Names or numbers of images do not match, or the source cannot be read.
    """

    def __init__(self, path: str, data: Data):
        self.path, argument = path, f"reconstructions={path}"
        self.images = open_images(path, "reconstructions")
        names = data.scored_names()
        if names is None:
            raise ValueError(
                f"{argument} needs images whose names are known in advance: a folder, or uncompressed tars on disk"
            )
        stored = list(map(encodable, self.images.names))
        if self.images.ordered:
            self.index = in_sorted_order(names, len(stored), argument)
        else:
            self.index = matched(names, stored, argument)
        self.warnings = lossy(stored, argument)
        own = self.images.sha256() if rank_and_size()[0] == 0 else ""  # files are read once, not by every rank
        self.fingerprint = gather_objects(own)[0]

    def check(self, data: Data, preparations: Sequence[Preparation]) -> None:
        crops = list(dict.fromkeys(preparation._replace(size=None).name for preparation in preparations))
        if len(crops) > 1:
            own = f"reconstructions={self.path}: those of {data.image_size}x{data.image_size} pixels, if there are any,"
            crop = f"are compared with the {', '.join(crops)} crops of the images, though they show one crop only"
            self.warnings = [*self.warnings, f"{own} {crop}"]

    def key(self) -> list[Any]:
        return [self.fingerprint]

    def of(self, batch: Batch, images: Tensor, reading: Reading) -> Reconstructed:
        size = (images.shape[-2], images.shape[-1])
        found = [
            self.read(name, size, original, reading) for name, original in zip(batch.names, batch.sizes, strict=True)
        ]
        levels = torch.stack(found).to(images.device)
        return Reconstructed(to_nearest_float(levels), levels=levels)

    def read(self, name: str, size: tuple[int, int], original: tuple[int, int] | None, reading: Reading) -> Tensor:
        """Reconstruction (3, H, W) uint8 of an image.

        Args:
            name: Name of the image.
            size: Size (H, W) of its crop. A reconstruction of this size is taken as it is.
            original: Size of the uncropped image, None if it is not known. A reconstruction of this size is cropped
                like the image.
            reading: Form in which the image was read.

        Raises:
            ValueError: The reconstruction has another size, or cannot be read.
        """
        where = f"reconstructions={self.path}: the reconstruction of {name}"
        try:
            image = read_rgb(self.images.open(self.index[name]), stored=reading.preparation.stored)
        except UnreadableImage as error:
            raise ValueError(f"{where} cannot be read: {error}") from error
        own = (image.height, image.width)
        if original and own not in (size, original):
            accepted = " or ".join(dict.fromkeys(map(_text, (size, original))))
            raise ValueError(
                f"{where} has {_text(own)} pixels (height x width), not {accepted}, as the crop or the image has"
            )
        if own != size:
            for transform in crop_transforms(reading.preparation.crop, reading.image_size):
                image = transform(image, np.random.default_rng(0))
        return to_tensor(image)

    def about(self) -> dict[str, Any]:
        return {
            "tokenizer": self.path,
            "sha256": self.fingerprint,
            "reconstructions": self.images.kind,
            "warnings": list(self.warnings),
        }


def lossy(names: Sequence[str], argument: str) -> list[str]:
    """Sentences that warn of files in a lossy format, by their extensions."""
    formats = [LOSSY.get(PurePosixPath(name).suffix.lower()) for name in names]
    found = []
    for name in dict.fromkeys(filter(None, formats)):
        loss = "contain JPEG's loss" if name == "JPEG" else f"contain {name}'s loss, unless the files are lossless"
        count = formats.count(name)
        found.append(f"{argument}: {count:,} of {len(names):,} files are {name}: the numbers {loss}")
    return found


def _text(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))
