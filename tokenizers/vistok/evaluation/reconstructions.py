"""Sources of the reconstructions that are scored; here tokenizers, in ``stored`` images on disk."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vistok import configuration
from vistok.data.batches import Batch
from vistok.data.shards import Data
from vistok.evaluation.preparation import Preparation
from vistok.images.ranges import to_nearest_float
from vistok.quantizers import Codes, Context
from vistok.structure import WeightCount
from vistok.tiles import Tiles
from vistok.tokenizer import Tokenizer, fingerprint


class Reading(NamedTuple):
    """Form in which images are read."""

    preparation: Preparation
    image_size: int  # of crops
    batch_size: int  # 1 where sizes differ: a batch has images of one size


class Reconstructed(NamedTuple):
    """Reconstructions of a batch."""

    images: Tensor  # (b, 3, H, W) float in [-1, 1], unclamped
    emitted: Codes | None = None  # the codes that they were decoded from, if known
    levels: Tensor | None = None  # (b, 3, H, W) uint8, the same images if they are of 8 bits already


class Reconstructions(ABC):
    """Reconstructions of any images.

    Attributes:
        path: The source, as the user named it.
        fingerprint: SHA-256 of the content of the source.
        tokenizer: The tokenizer whose codes are counted; None if there are no codes.
        warnings: Sentences for the report.
    """

    path: str
    fingerprint: str
    tokenizer: Tokenizer | None = None
    warnings: Sequence[str] = ()

    @abstractmethod
    def check(self, data: Data, preparations: Sequence[Preparation]) -> None:
        """Refuses data that do not fit, as far as that is known before they are read.

        Raises:
            ValueError: The message names the user's argument, or an image.
        """

    def to(self, device: torch.device | str) -> None:
        """Moves the tokenizer, if there is one, to a device."""
        if self.tokenizer is not None:
            self.tokenizer.to(device)

    @abstractmethod
    def key(self) -> list[Any]:
        """Plain content that determines the reconstructions of given images, for a saved state."""

    @abstractmethod
    def of(self, batch: Batch, images: Tensor, reading: Reading) -> Reconstructed:
        """Reconstructs a batch.

        Args:
            batch: Names and original sizes of the images.
            images: (b, 3, H, W) uint8, on the device.
            reading: Form in which they were read.
        """

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Facts for the report."""


class TokenizerReconstructions(Reconstructions):
    """Reconstructions by a tokenizer from its codes.

    Args:
        tokenizer: The tokenizer.
        path: Path of the tokenizer, for reports.
        rate: Share of regions that get fine codes, in [0, 1], for dynamic heads; None lets the head decide.
        tile: Side in pixels of the tiles in which images pass the networks; None for full images.
        overlap: Pixels of a tile beside its own part, at each side; None for the default of ``Tiles``.

    Raises:
        ValueError: The tokenizer cannot be used in tiles.
    """

    tokenizer: Tokenizer

    def __init__(
        self,
        tokenizer: Tokenizer,
        path: str = "",
        rate: float | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ):
        self.tokenizer, self.path, self.rate = tokenizer.eval(), path, rate
        self.tiles = None if tile is None else Tiles(tokenizer, tile, overlap, "model.tile")
        self.tiling = {} if tile is None else {"tile": tile, "overlap": overlap}
        self.fingerprint = fingerprint(tokenizer)

    def check(self, data: Data, preparations: Sequence[Preparation]) -> None:
        if self.rate is not None and granularities_of(self.tokenizer) != 2:
            name = type(self.tokenizer.quantizer).__name__
            raise ValueError(f"model.rate={self.rate} needs a dynamic head of two granularities, not a {name}")
        if any(not preparation.native for preparation in preparations):
            configuration.check_image_size(data.image_size, self.tokenizer)
        if any(preparation.native and not preparation.stored for preparation in preparations):
            for size, name in {size: name for name, size in reversed(data.scored_sizes)}.items():
                self._check_size(name, *size)

    def key(self) -> list[Any]:
        return [self.fingerprint, self.tokenizer.tree(), self.rate, *self.tiling.values()]

    def _check_size(self, name: str, height: int, width: int) -> None:
        try:
            self.tokenizer.padded_size(height, width)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def of(self, batch: Batch, images: Tensor, reading: Reading) -> Reconstructed:
        if reading.preparation.native:  # sizes may be unknown before: a stream's, or those of files as they are stored
            self._check_size(batch.names[0], images.shape[-2], images.shape[-1])
        return Reconstructed(*reconstruct(self.tokenizer, images, self.rate, reading.batch_size, self.tiles))

    def about(self) -> dict[str, Any]:
        return {
            "tokenizer": self.path,
            "sha256": self.fingerprint,
            "parameters": WeightCount.of(self.tokenizer.fold()).parameters,
            "codebook_sizes": list(self.tokenizer.quantizer.codebook_sizes),
            "factor": self.tokenizer.factor,
            **self.tiling,
        }


def reading_of(preparation: Preparation, data: Data) -> Reading:
    """Form in which images are read: one by one if their sizes differ, or are unknown in advance."""
    known = not preparation.native or not preparation.stored and len({size for _, size in data.scored_sizes}) == 1
    return Reading(preparation, data.image_size, data.batch_size if known else 1)


def granularities_of(tokenizer: Tokenizer) -> int:
    """Number of granularities that a region of a tokenizer's codes can have; 1 for all but dynamic heads."""
    return tokenizer.quantizer.layout(*tokenizer.quantizer.example_grid).granularities


def reconstruct(
    tokenizer: Tokenizer, images: Tensor, rate: float | None, batch_size: int, tiles: Tiles | None = None
) -> tuple[Tensor, Codes]:
    """Reconstructs uint8 images (b, 3, H, W), always in batches of the same size.

    The last digits of a convolution depend on the batch size. A short batch is padded, so that an image's pixels are
    the same on any number of ranks.
    """
    b = len(images)
    filled = torch.cat([images, images[-1:].expand(batch_size - b, -1, -1, -1)])
    floats = to_nearest_float(filled)
    if tiles is not None:
        found = tiles.reconstruct(floats)
        return found.images[:b], Codes(found.codes[:b])
    reconstruction, emitted = tokenizer.reconstruct(floats, Context(rate=rate))
    return reconstruction[:b], Codes(*(None if part is None else part[:b] for part in emitted))
