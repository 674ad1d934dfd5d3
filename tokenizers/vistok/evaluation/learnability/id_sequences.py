"""Codes of every head as one sequence of ids, each at a slot that tells which ids can stand there.

Regions follow in raster order: a position of a grid or a 1-D sequence, or a coarse region of a dynamic head, with its
cells in raster order. The k codes of a cell stand side by side. The ids of a codebook follow those of the one before,
and those of a granularity follow the coarser ones, so that the first id of a region also tells its granularity. A code
of more than 2¹⁶ codewords is several ids, of a group of its bits each. The probability of a sequence is thus that of
everything a decoder needs.
"""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from vistok.metrics.usage import parts_of, split
from vistok.tokens.header import Header

PADDING = -100  # ignored by cross_entropy
LARGEST_CODEBOOK, GROUP_BITS = 2**16, 16


class IdBatch(NamedTuple):
    """Sequences of several images."""

    ids: Tensor  # (b, l) int64, PADDING after the end
    slots: Tensor  # (b, l) int64, slot of each id

    def to(self, device: torch.device | str) -> "IdBatch":
        return IdBatch(self.ids.to(device), self.slots.to(device))


class IdSpace:
    """The ids and slots of an image's tokens.

    Args:
        header: Header of the tokens.

    Attributes:
        parts: Codebooks, or groups of bits of large ones: K ids for a token.
        vocabulary: Number of ids V.
        kinds: Number R of slots of a region; slot s is of kind ``s % R``.
        number: Number of slots S; only some of them have an id if the head is dynamic.
        allowed: (R, V) bool, ids that can stand at slots of a kind.
    """

    def __init__(self, header: Header):
        self.sizes, self.granularities = header.codebook_sizes, header.grains or 1
        self.side = 2 ** (self.granularities - 1)
        self.rows, self.columns = (length // self.side for length in header.grid)
        self.parts = parts_of(self.sizes, LARGEST_CODEBOOK, GROUP_BITS)
        sizes = torch.tensor([part.size for part in self.parts])
        self.starts = sizes.cumsum(0) - sizes
        self.of_one = int(sizes.sum())  # ids of a granularity
        self.vocabulary = self.granularities * self.of_one
        self._number_slots()
        self.number = self.rows * self.columns * self.kinds

    def _number_slots(self) -> None:
        """Numbers a region's slots: 0 for its first id, then those of each granularity."""
        k, cells = len(self.parts), [4**g for g in range(self.granularities)]
        self.local = torch.zeros(self.granularities, cells[-1], k, dtype=torch.int64)  # of cell and codebook
        self.kinds, follows = 1, []
        for g, count in enumerate(cells):
            own = torch.arange(count * k)
            own[1:] += self.kinds - 1
            self.local[g, :count] = own.view(count, k)
            self.kinds += count * k - 1
            follows.append(own)
        self.after = torch.full((self.kinds, self.granularities), self.kinds)  # the next slot; R: of the next region
        self.allowed = torch.zeros(self.kinds, self.vocabulary, dtype=torch.bool)
        for g, own in enumerate(follows):
            self.after[own[:-1], g] = own[1:]
            for slot, j in zip(own.tolist(), list(range(k)) * cells[g], strict=True):
                start = g * self.of_one + int(self.starts[j])
                self.allowed[slot, start : start + self.parts[j].size] = True

    def sequences(self, codes: Tensor, keep: Tensor) -> IdBatch:
        """Sequences of codes (b, k, h, w) int64, of which keep (b, h, w) bool marks the tokens."""
        p = {"p": self.side, "q": self.side}
        kept = rearrange(keep, "b (h p) (w q) -> b (h w) (p q)", **p)
        regions = rearrange(split(codes, self.parts), "b k (h p) (w q) -> b (h w) (p q) k", **p)
        granularity = (kept.sum(2).float().log2() / 2).round().long()[..., None]
        ids = regions + self.starts + self.of_one * granularity[..., None]
        cell = (kept.cumsum(2) - 1).clamp(min=0)
        slots = self.local[granularity.expand_as(cell), cell]
        slots = slots + self.kinds * torch.arange(slots.shape[1])[:, None, None]
        ids, slots = ids.flatten(1), slots.flatten(1)
        if self.granularities == 1:
            return IdBatch(ids, slots)
        absent = ~kept[..., None].expand_as(regions).flatten(1)
        order = absent.int().sort(dim=1, stable=True).indices[:, : int((~absent).sum(1).max())]
        return IdBatch(ids.masked_fill(absent, PADDING).gather(1, order), slots.gather(1, order))

    def following(self, slots: Tensor, ids: Tensor) -> Tensor:
        """Slots (b,) after those with these ids; S at the end."""
        kinds = slots % self.kinds
        return slots - kinds + self.after.to(slots.device)[kinds, ids // self.of_one]

    def codes(self, table: Tensor) -> Tensor:
        """Codes (b, k, h, w) of ids by slot (b, S); slots without an id may hold anything."""
        regions = table.cpu().unflatten(1, (-1, self.kinds))
        granularity = regions[:, :, :1] // self.of_one
        found = torch.zeros(*regions.shape[:2], self.side**2, len(self.parts), dtype=torch.int64)
        for g in range(self.granularities):
            cells = regions[:, :, self.local[g, : 4**g]] - g * self.of_one - self.starts
            side = {"p": 2**g, "q": 2**g, "r": self.side // 2**g, "s": self.side // 2**g}
            cells = repeat(cells, "b n (p q) k -> b n (p r q s) k", **side)
            found = torch.where(granularity[..., None] == g, cells, found)
        found = rearrange(found, "b (h w) (p q) k -> b k (h p) (w q)", h=self.rows, p=self.side)
        codes = torch.zeros(len(found), len(self.sizes), *found.shape[2:], dtype=torch.int64)
        for j, part in enumerate(self.parts):
            codes[:, part.codebook] += found[:, j] << part.shift
        largest = torch.tensor(self.sizes)[:, None, None] - 1  # groups of bits of a size that is no power of 2
        return codes.minimum(largest).to(table.device)
