"""One shard of tokens, memory-mapped, and the tokens of its images."""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vistok.tokens.header import INDEX, Header
from vistok.tokens.token_shards import further_files, shard_files
from vistok.untrusted.arrays import read_array
from vistok.untrusted.bounded_json import MAX_LISTING, read_json

MAX_SIDE = 2**20  # most positions along a side of a grid


class Ragged(NamedTuple):
    """One view of an image by a dynamic head, for each granularity, coarsest first."""

    tokens: list[np.ndarray]  # (length, k)
    positions: list[np.ndarray]  # (length,) raster index in the granularity's grid


def spread(header: Header, ragged: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """Spreads sequences of a dynamic head over its fine grid: codes (k, h, w) int64 and keep (h, w) bool."""
    h, w = header.grid
    codes = np.zeros((len(header.codebook_sizes), h, w), dtype=np.int64)
    keep = np.zeros((h, w), dtype=bool)
    for granularity, (tokens, positions) in enumerate(zip(*ragged, strict=True)):
        side = 2 ** (header.grains - 1 - granularity)
        y, x = np.divmod(positions.astype(np.int64), w // side)
        cells = codes.reshape(-1, h // side, side, w // side, side)
        cells[:, y, :, x, :] = tokens[:, :, None, None]  # (length, k, side, side)
        keep[y * side, x * side] = True
    return codes, keep


def check_ragged(header: Header, ragged: Ragged) -> Ragged:
    """Checks that a dynamic head's sequences cover each position of the grid once, with valid codes.

    Raises:
        ValueError: They do not.
    """
    tokens, positions = ragged
    h, w = header.grid
    k, sizes = len(header.codebook_sizes), np.array(header.codebook_sizes)
    if [own.shape for own in tokens] != [(len(own), k) for own in positions] or len(tokens) != header.grains:
        raise ValueError("tokens and positions are not one list of equal length for each granularity")
    sides = [2 ** (header.grains - 1 - granularity) for granularity in range(header.grains)]
    if sum(side**2 * len(own) for side, own in zip(sides, positions, strict=True)) != header.positions:
        raise ValueError(
            f"{[len(own) for own in positions]} tokens of its granularities do not fill {h} x {w} positions"
        )
    covered = np.zeros((h, w), dtype=bool)
    for granularity, (side, ids, places) in enumerate(zip(sides, tokens, positions, strict=True)):
        ids, places = ids.astype(np.int64), places.astype(np.int64)
        if ((ids < 0) | (ids >= sizes)).any() or ((places < 0) | (places >= header.positions // side**2)).any():
            raise ValueError(f"a token or a position of granularity {granularity} is out of range")
        y, x = np.divmod(places, w // side)
        covered.reshape(h // side, side, w // side, side)[y, :, x, :] = True
    if not covered.all():
        raise ValueError("two of its tokens cover the same positions")
    return ragged


class MappedShard:
    """Files of one shard, memory-mapped at their first use in a process.

    Args:
        folder: Folder of the files.
        number: Number of the shard.
        note: Checked entry of ``index.json`` about the shard.
        header: Header of the tokens.
    """

    def __init__(self, folder: Path, number: int, note: dict[str, Any], header: Header):
        self.folder, self.number, self.header, self.note = folder, number, header, note
        self.images, self.files = note["images"], shard_files(number, further_files(header), True)

    def __getstate__(self) -> dict[str, Any]:
        """State without the mapped arrays, for a loader's workers."""
        attributes = ("folder", "number", "header", "note", "images", "files")
        return {name: self.__dict__[name] for name in attributes}

    @cached_property
    def tokens(self) -> np.ndarray:
        header, k = self.header, len(self.header.codebook_sizes)
        if header.grains is None and not header.native:
            return self._map("tokens", (self.images, header.num_views, k, *header.grid), header.dtype_on_disk)
        return self._map("tokens", (int(self.offsets[-1]), k), header.dtype_on_disk)

    @cached_property
    def positions(self) -> np.ndarray:
        return self._map(
            "positions", (int(self.offsets[-1]),), "uint16" if self.header.positions <= 2**16 else "uint32"
        )

    @cached_property
    def lengths(self) -> np.ndarray:
        return self._map("lengths", (self.images, self.header.num_views, self.header.grains), "uint32")

    @cached_property
    def sizes(self) -> np.ndarray:
        """Height, width and grid (h, w) of each image of native size."""
        sizes = self._map("sizes", (self.images, 4), "uint32")
        if (sizes[:, 2:] > MAX_SIDE).any():
            raise ValueError(
                f"{self.folder / self.files['sizes']} has grids of more than {MAX_SIDE:,} positions a side"
            )
        return sizes

    @cached_property
    def labels(self) -> np.ndarray:
        return self._map("labels", (self.images,), "int64")

    @cached_property
    def offsets(self) -> np.ndarray:
        """Start of each view's tokens, and the end of the last."""
        if self.header.native:
            of_views = np.asarray(self.sizes[:, 2:], dtype=np.int64).prod(1).repeat(self.header.num_views)
        else:
            of_views = np.asarray(self.lengths, dtype=np.int64).sum(-1).ravel()
        return np.concatenate([[0], np.cumsum(of_views)])

    def names(self) -> list[str]:
        return self._texts("names")

    def captions(self) -> list[str] | None:
        """Captions of the images; None if none were extracted."""
        return self._texts("captions") if "captions" in self.note["files"] else None

    def grid_of(self, at: int, view: int) -> np.ndarray:
        """Codes (k, h, w) of one view of an image of native size."""
        at_view = at * self.header.num_views + view
        tokens = self.tokens[self.offsets[at_view] : self.offsets[at_view + 1]]
        return np.moveaxis(tokens.reshape(*map(int, self.sizes[at, 2:]), -1), 2, 0)

    def ragged(self, at: int, view: int) -> Ragged:
        if not 0 <= view < self.header.num_views:
            raise IndexError(f"view {view} of {self.header.num_views}")
        first = self.offsets[at * self.header.num_views + view]
        bounds = first + np.concatenate([[0], np.cumsum(self.lengths[at, view].astype(np.int64))])
        pieces = list(zip(bounds[:-1], bounds[1:], strict=True))
        ragged = Ragged([self.tokens[a:b] for a, b in pieces], [self.positions[a:b] for a, b in pieces])
        try:
            return check_ragged(self.header, ragged)
        except ValueError as error:
            raise ValueError(f"{self.folder / self.files['tokens']}, image {at}: {error}") from error

    def _texts(self, kind: str) -> list[str]:
        texts = read_json(self.folder / self.files[kind], MAX_LISTING)
        if type(texts) is not list or len(texts) != self.images or not all(type(text) is str for text in texts):
            raise ValueError(f"{self.folder / self.files[kind]} does not hold {self.images} {kind}")
        return texts

    def _map(self, kind: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        path = self.folder / self.files[kind]
        array = read_array(path, str(path), mapped=True)
        if array.shape != shape or array.dtype != np.dtype(dtype):
            raise ValueError(f"{path} holds {array.dtype} {array.shape}, but by {INDEX} it is {dtype} {shape}")
        return array
