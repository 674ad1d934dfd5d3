"""Tokens as a torch ``Dataset``, with flips and crops as views of an image."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vistok.tokens.layouts import interleave
from vistok.tokens.store import TokenStore


class TokenItem(NamedTuple):
    """One view of one image; a default collate makes a batch of them."""

    codes: Tensor  # (k, h, w) int64
    label: int  # -1 without a label
    ids: Tensor  # (h·w·k,) int64: the codes as one sequence over one vocabulary, position by position
    keep: Tensor  # (h, w) bool: which positions are tokens; all, unless the head is dynamic


class TokenDataset(Dataset):
    """Tokens that ``python -m vistok tokenize`` wrote, one item for each image, through memory maps.

    Args:
        folder: Where they are.
        view: Which view of an image an item is; None draws one from (seed, epoch, index), so that any number of
            processes and a resumed run see the same.
        seed: Of these draws.

    Attributes:
        store: The tokens themselves, with all views, labels and names.
        header: What they are of.
        vocabulary: Number of different ids.

    Raises:
        ValueError: There are no complete tokens, or no such view.
    """

    def __init__(self, folder: str | Path, view: int | None = None, seed: int = 0):
        self.store, self.view, self.seed, self.epoch = TokenStore(folder), view, seed, 0
        self.header = self.store.header
        if view is not None and not 0 <= view < self.header.num_views:
            raise ValueError(f"view={view}, but {folder} has the views 0 to {self.header.num_views - 1}")
        self.vocabulary = sum(self.header.codebook_sizes)

    def set_epoch(self, epoch: int) -> None:
        """Draw other views. To be called before a loader starts its workers; persistent ones do not see it."""
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
