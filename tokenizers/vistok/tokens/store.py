"""Tokens on disk, read through memory maps: nothing is loaded before it is used."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistok.quantizers.sequences import Sequences, content_special, position_special
from vistok.tokenizer import Tokenizer
from vistok.tokens.factorization import split_codes
from vistok.tokens.header import INDEX, PARTIAL_INDEX, Header
from vistok.tokens.memory_map import MappedShard, Ragged, spread
from vistok.tokens.token_shards import further_files, notes_of, undamaged
from vistok.untrusted.bounded_json import MAX_LISTING, read_object


class TokenStore:
    """Tokens written by ``python -m vistok tokenize``.

    Args:
        folder: Folder with ``index.json`` and the shards.
        split_bits: Bits of each part of a code, lowest first, to read codes in parts; None reads them as they are.

    Attributes:
        header: Header of the tokens as they are read; its ``layout`` has the grids of all scales.
        index: Content of ``index.json``.

    Raises:
        ValueError: The folder has no complete tokens, an array has another shape than the header says, or its codes
            cannot be read in these parts.
    """

    def __init__(self, folder: str | Path, split_bits: Sequence[int] | None = None):
        self.folder = Path(folder)
        path = self.folder / INDEX
        if not path.is_file() and (self.folder / PARTIAL_INDEX).is_file():
            raise ValueError(f"{self.folder} is not complete: run the command that writes it again, and it resumes")
        self.index: dict[str, Any] = read_object(path, MAX_LISTING)
        self.stored = Header.of(self.index, path)
        self.header = self.stored.factorized(split_bits)
        notes = notes_of(self.index, path, further_files(self.header))
        self.shards = [MappedShard(self.folder, number, note, self.stored) for number, note in enumerate(notes)]
        self.starts = np.cumsum([0, *(shard.images for shard in self.shards)])

    def __len__(self) -> int:
        """Number of images."""
        return int(self.starts[-1])

    @cached_property
    def labels(self) -> np.ndarray:
        """Label of every image, (n,) int64; -1 for images without a label."""
        return np.concatenate([np.asarray(shard.labels) for shard in self.shards])

    @cached_property
    def names(self) -> list[str]:
        """Name of every image."""
        return [name for shard in self.shards for name in shard.names()]

    @cached_property
    def captions(self) -> list[str] | None:
        """Caption of every image; None if ``--captions`` did not ask for them."""
        parts = [shard.captions() for shard in self.shards]
        if None in parts:
            return None
        return [caption for part in parts for caption in part or ()]

    def label(self, i: int) -> int:
        """Label of the i-th image; -1 if it has none."""
        shard, at = self._find(i)
        return int(shard.labels[at])

    def size(self, i: int) -> tuple[int, int]:
        """Height and width in pixels of the i-th image, which for native sizes may be padded before it is tokenized."""
        shard, at = self._find(i)
        if not self.header.native:
            return self.header.image_size, self.header.image_size
        height, width = map(int, shard.sizes[at, :2])
        return height, width

    def view(self, i: int, view: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """One view of the i-th image: codes (k, *positions) int64, and which are tokens, (*positions) bool.

        Positions are (h, w), or (1, n) for the scales of a multi-scale head one after the other. For a dynamic head the
        code of a coarse cell is at all its positions; other heads have a token at every position.
        """
        shard, at = self._find(i)
        if not 0 <= view < self.header.num_views:
            raise IndexError(f"view {view} of {self.header.num_views}")
        if self.header.native:
            codes = self._parts(shard.grid_of(at, view))
            return codes, np.ones(codes.shape[1:], dtype=bool)
        if self.header.grains is None:
            return self._parts(shard.tokens[at, view]), np.ones(self.header.grid, dtype=bool)
        return spread(self.header, self.ragged(i, view))

    def codes(self, i: int) -> np.ndarray:
        """All views of the i-th image: (v, k, *positions) int64."""
        return np.stack([self.view(i, view)[0] for view in range(self.header.num_views)])

    def ragged(self, i: int, view: int = 0) -> Ragged:
        """Sequences of one view by a dynamic head.

        Raises:
            ValueError: The head is not dynamic.
        """
        if self.header.grains is None:
            raise ValueError(f"{self.folder} is not of a dynamic head: its tokens are grids, which codes() returns")
        shard, at = self._find(i)
        own = shard.ragged(at, view)
        return own._replace(tokens=[self._parts(tokens.T).T for tokens in own.tokens])

    def sequences(self, images: Sequence[int], view: int = 0, codebook: int = 0) -> Sequences:
        """Batch of a dynamic head's sequences with EOS and padding, in the form of ``sequences.pack``."""
        own = [self.ragged(i, view) for i in images]
        grains = range(self.header.grains)
        content = content_special(self.header.codebook_sizes[codebook])
        place = position_special(self.header.grid, self.header.grains)
        return Sequences(
            tuple(_padded([one.tokens[g][:, codebook] for one in own], content) for g in grains),
            tuple(_padded([one.positions[g] for one in own], place[g]) for g in grains),
        )

    def decode(self, tokenizer: Tokenizer, codes: Tensor) -> Tensor:
        """Decodes codes (b, k, *positions), from this store or a generator, to images (b, 3, H, W) in [-1, 1].

        Those of native size are decoded in tiles where they were tokenized in tiles, and still have the padding right
        of and below their ``size``.

        Raises:
            ValueError: The tokenizer did not make these tokens, or a code is out of range.
        """
        self.header.check_tokenizer(tokenizer)
        if self.header.native:
            complete = self.header.complete_codes(codes)
            return tokenizer.detokenize(complete, tile=self.header.tile, overlap=self.header.overlap)
        return tokenizer.detokenize(self.header.complete_codes(codes), (self.header.image_size, self.header.image_size))

    def verify(self) -> Iterator[int]:
        """Reads every file again; yields the number of images checked so far after each shard.

        Raises:
            ValueError: A file has changed, or a code is not in its codebook.
        """
        sizes = np.array(self.stored.codebook_sizes)
        for number, shard in enumerate(self.shards):
            if not undamaged(self.folder, shard.note["files"]):
                raise ValueError(f"shard {number} of {self.folder} is damaged: run the command that made it again")
            axis = 2 if not further_files(self.header) else 1
            if shard.tokens.size:
                largest = np.moveaxis(shard.tokens, axis, 0).reshape(len(sizes), -1).max(1)
                if (largest >= sizes).any():
                    raise ValueError(f"shard {number} of {self.folder} holds codes up to {largest.tolist()}, of "
                                     f"codebooks of {sizes.tolist()}")  # fmt: skip
            yield int(self.starts[number + 1])

    def _parts(self, codes: np.ndarray) -> np.ndarray:
        """Stored codes (k, *positions) as int64, in the parts that are read."""
        codes = codes.astype(np.int64)
        if self.header.split_bits == self.stored.split_bits:
            return codes
        return split_codes(torch.from_numpy(codes)[None], self.header.split_bits)[0].numpy()

    def _find(self, i: int) -> tuple[MappedShard, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of {len(self)}")
        number = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.shards[number], i - int(self.starts[number])


def _padded(rows: Sequence[np.ndarray], special: Any) -> Tensor:
    """Rows of ids, each with EOS after its last id, as (b, longest + 1) int64."""
    out = torch.full((len(rows), 1 + max(map(len, rows), default=0)), special.pad, dtype=torch.int64)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = torch.from_numpy(ids.astype(np.int64))
        row[len(ids)] = special.eos
    return out
