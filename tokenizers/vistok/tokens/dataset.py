"""Tokens as a torch ``Dataset``, with flips and crops as views of an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vistok.tokens.layouts import interleave
from vistok.tokens.store import TokenStore


class TokenItem(NamedTuple):
    """One view of one image; the default collate function batches it.

    Attributes:
        codes: (k, *positions) int64: (h, w), or (1, n) for several scales one after the other.
        label: Class of the image; -1 if there is none.
        ids: (h·w·k,) or (n·k,) int64: the codes as one sequence over one vocabulary, position by position.
        keep: (*positions) bool, True at positions that are tokens; all of them unless the head is dynamic.
    """

    codes: Tensor
    label: int
    ids: Tensor
    keep: Tensor


class TokenDataset(Dataset):
    """Tokens written by ``python -m vistok tokenize``, one item for each image, read through memory maps.

    Args:
        folder: Folder of the tokens.
        view: Index of the view; None draws a view from (seed, epoch, index), so that any number of processes and a
            resumed run get the same.
        seed: Seed of these draws.
        split_bits: Bits of each part of a code, lowest first, to read codes in parts; None reads them as they are.

    Attributes:
        store: The tokens, with all views, labels and names.
        header: Header of the tokens; its ``layout`` has the grids of all scales.
        vocabulary: Number of different ids.

    Raises:
        ValueError: The folder has no complete tokens, or the view does not exist.
    """

    def __init__(
        self, folder: str | Path, view: int | None = None, seed: int = 0, split_bits: Sequence[int] | None = None
    ):
        self.store, self.view, self.seed, self.epoch = TokenStore(folder, split_bits), view, seed, 0
        self.header = self.store.header
        if view is not None and not 0 <= view < self.header.num_views:
            raise ValueError(f"view={view}, but {folder} has the views 0 to {self.header.num_views - 1}")
        self.vocabulary = sum(self.header.codebook_sizes)

    def set_epoch(self, epoch: int) -> None:
        """Changes the drawn views. Call it before a loader starts its workers; persistent workers do not notice it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: int) -> TokenItem:
        view = self.view
        if view is None:
            view = int(np.random.default_rng((self.seed, self.epoch, i)).integers(self.header.num_views))
        codes, keep = self.store.view(i, view)
        ids = interleave(codes, self.header.codebook_sizes)
        return TokenItem(torch.from_numpy(codes), self.store.label(i), torch.from_numpy(ids), torch.from_numpy(keep))
