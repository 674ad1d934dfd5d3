"""Concealment of lost codes: predictions of the concealment model, and simple methods without one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.codec.filler import Filler


@torch.no_grad()
def fill(
    filler: Filler, latent: Tensor, known: Tensor, tables: Sequence[Tensor], counts: Sequence[Tensor], mean: bool = True
) -> Tensor:
    """Fills the lost positions of a latent (d, h, w).

    Args:
        filler: The concealment model.
        latent: Codewords (d, h, w); those of lost positions are ignored.
        known: (h, w) bool.
        tables: Codewords (n, d_i) of each codebook.
        counts: Counts of the codewords, (n,).
        mean: True fills with the probability-weighted mean of all codewords, which has the smallest expected squared
            error; False fills with the most probable codeword.
    """
    filled = latent.clone()
    if known.all():
        return filled
    queries = filler.queries(latent, known)
    guesses = []
    for log_p, table in zip(filler.log_probabilities(queries, tables, counts), tables, strict=True):
        guesses.append(log_p.exp() @ table if mean else table[log_p.argmax(1)])
    filled[:, ~known] = torch.cat(guesses, 1).T
    return filled


def mean_codeword(latent: Tensor, known: Tensor, tables: Sequence[Tensor], counts: Sequence[Tensor]) -> Tensor:
    """Baseline: the mean codeword of the training images at every lost position."""
    parts = [count.double() / count.sum() @ table.double() for table, count in zip(tables, counts, strict=True)]
    return torch.where(known, latent, torch.cat(parts).float()[:, None, None])


def neighbour_copy(latent: Tensor, known: Tensor) -> Tensor:
    """Baseline: the codeword of the nearest received position, the first in raster order, at every lost position."""
    if not known.any():
        return torch.zeros_like(latent)
    filled = latent.clone()
    received = known.nonzero().float()
    lost = (~known).nonzero()
    for part in lost.split(1024):
        nearest = torch.cdist(part.float(), received).argmin(1)
        y, x = received[nearest].long().T
        filled[:, part[:, 0], part[:, 1]] = latent[:, y, x]
    return filled


def neighbour_mean(latent: Tensor, known: Tensor) -> Tensor:
    """Fills each lost position with the mean of those of its eight neighbours that were received or already filled."""
    if not known.any():
        return torch.zeros_like(latent)
    filled, done = latent * known, known.clone()
    kernel = torch.ones(1, 1, 3, 3)
    while not done.all():
        weight = done.float()[None, None]
        number = F.conv2d(weight, kernel, padding=1)[0, 0]
        sums = F.conv2d((filled * weight[0])[:, None], kernel, padding=1)[:, 0]
        now = ~done & (number > 0)
        filled = torch.where(now, sums / number.clamp(min=1), filled)
        done = done | now
    return filled
