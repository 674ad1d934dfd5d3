"""Bits of held-out ids by their frequencies: alone (order 0), and given the id before (bigram)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from vistok.evaluation.learnability.id_sequences import PADDING, IdBatch, IdSpace


class Frequencies:
    """Counts of ids and of pairs of ids over training images.

    Order 0 is ``(n + 1) / Σ (n + 1)`` over the ids that can stand at a slot (Laplace). A bigram is interpolated with
    it after Witten and Bell (1991): after an id that was followed by T different ones in N places, a following one has
    ``(n + T p₀) / (N + T)``. Both are distributions over the ids that can stand at a slot.

    Args:
        space: Ids and slots.
        batches: Sequences of the training images.
    """

    def __init__(self, space: IdSpace, batches: Iterable[IdBatch]):
        self.space = space
        counts, pairs = torch.zeros(space.vocabulary, dtype=torch.int64), []
        for batch in batches:
            present = batch.ids != PADDING
            counts += batch.ids[present].bincount(minlength=space.vocabulary)
            pairs.append(self._pairs(batch, present).unique(return_counts=True))
        smoothed = counts.double() + 1
        self.totals = space.allowed.double() @ smoothed  # (R,)
        self.smoothed = smoothed
        keys, where = torch.cat([own for own, _ in pairs]).unique(return_inverse=True)
        self.pairs = keys
        self.pair_counts = (
            torch.zeros(len(keys)).double().index_add_(0, where, torch.cat([number for _, number in pairs]).double())
        )
        contexts, where = (keys // space.vocabulary).unique(return_inverse=True)
        self.contexts = contexts
        self.followers = torch.zeros(len(contexts)).double().index_add_(0, where, torch.ones(len(keys)).double())
        self.places = torch.zeros(len(contexts)).double().index_add_(0, where, self.pair_counts)

    def _pairs(self, batch: IdBatch, present: Tensor) -> Tensor:
        """Key of each id, of its kind of slot, and of the id before: one int64."""
        v = self.space.vocabulary
        before = torch.cat([torch.full_like(batch.ids[:, :1], v), batch.ids[:, :-1]], dim=1)
        context = before * self.space.kinds + batch.slots % self.space.kinds
        return (context * v + batch.ids)[present]

    def bits(self, batches: Iterable[IdBatch]) -> tuple[float, float]:
        """Sum of -log₂ p over all ids of the batches: order 0, bigram."""
        order0 = bigram = 0.0
        for batch in batches:
            present = batch.ids != PADDING
            alone = self.smoothed[batch.ids[present]] / self.totals[batch.slots[present] % self.space.kinds]
            keys = self._pairs(batch, present)
            count = lookup(self.pairs, self.pair_counts, keys)
            contexts = keys // self.space.vocabulary
            followers = lookup(self.contexts, self.followers, contexts)
            places = lookup(self.contexts, self.places, contexts)
            after = torch.where(places > 0, (count + followers * alone) / (places + followers), alone)
            order0 -= alone.log2().sum().item()
            bigram -= after.log2().sum().item()
        return order0, bigram


def lookup(keys: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """Values of the wanted keys; 0 for those that are not among the sorted ``keys``."""
    at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[at] == wanted, values[at], 0.0)
