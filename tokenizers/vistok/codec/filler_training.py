"""Training of the concealment model on codes of images."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from vistok.codec.coder import Codec
from vistok.codec.filler import Filler
from vistok.codec.reduction import tables_of

LEAST, MOST = 0.02, 0.5  # smallest and largest share of hidden positions
WARMUP = 50  # updates


@torch.no_grad()
def standardise(filler: Filler, codec: Codec) -> None:
    """Sets the mean and standard deviation of the used codewords of the largest rate."""
    rate = codec.rates[0]
    means, deviations = [], []
    for table, counts in zip(tables_of(rate.head), rate.counts, strict=True):
        share = (counts.double() / counts.sum())[:, None]
        mean = (share * table).sum(0)
        means.append(mean)
        deviations.append((share * (table - mean).square()).sum(0).sqrt())
    filler.mean.copy_(torch.cat(means))
    filler.deviation.copy_(torch.cat(deviations).clamp(min=1e-6))


def fit(
    filler: Filler, codec: Codec, grids: Sequence[np.ndarray], updates: int, batch_size: int, lr: float, seed: int
) -> list[float]:
    """Trains the model in place; returns the loss of each update in bits.

    Args:
        filler: The model.
        codec: Codec whose rates define the codewords.
        grids: Codes (images, k, h, w) of the same images, for each rate.
        updates: Number of optimizer steps.
        batch_size: Number of windows in each step.
        lr: Highest learning rate.
        seed: Seed of windows, rates and hidden positions.
    """
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(filler.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    filler.train()
    for update in track(range(updates), description="updates", transient=True):
        i = int(rng.integers(len(grids)))
        codes, hidden = draw(grids[i], filler.window, batch_size, rng)
        rate = codec.rates[i]
        loss = cross_entropy(filler, rate.head.lookup(codes), codes, hidden, tables_of(rate.head), rate.counts)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (update + 1) / WARMUP) * (1 + math.cos(math.pi * update / updates)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(filler.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item() / math.log(2))
    filler.eval().requires_grad_(False)
    return losses


def draw(grids: np.ndarray, window: int, number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random windows of codes (number, k, s, s), and their hidden positions (number, s, s) bool."""
    images, _, h, w = grids.shape
    drawn = []
    for _ in range(number):
        image, y, x = rng.integers(images), rng.integers(h - window + 1), rng.integers(w - window + 1)
        drawn.append(grids[image, :, y : y + window, x : x + window])
    share = rng.uniform(LEAST, MOST, size=(number, 1, 1))
    hidden = rng.random((number, window, window)) < share
    hidden[:, 0, 0] |= ~hidden.any((1, 2))
    return torch.from_numpy(np.stack(drawn)).long(), torch.from_numpy(hidden)


def cross_entropy(
    filler: Filler,
    latent: Tensor,
    codes: Tensor,
    hidden: Tensor,
    tables: Sequence[Tensor],
    counts: Sequence[Tensor],
) -> Tensor:
    """Mean over hidden positions of ``-log p`` of their codes, summed over codebooks, in nats."""
    queries = filler(latent, ~hidden).movedim(1, -1)[hidden]
    log_p = filler.log_probabilities(queries, tables, counts)
    chosen = codes.movedim(1, -1)[hidden]
    return sum(torch.nn.functional.nll_loss(p, c) for p, c in zip(log_p, chosen.T, strict=True))
