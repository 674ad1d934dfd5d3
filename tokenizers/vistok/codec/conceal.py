"""``python -m vistok conceal CODEC --images DIR``: train the model that guesses lost codes, and add it to a codec.

Random positions of random windows of the images' codes are hidden, at a random rate of the codec; the model learns the
codes behind them by cross-entropy.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from vistok import locks
from vistok.arguments import Parser, at_least, number
from vistok.codec.codec import FILLER, Codec, load, save_filler
from vistok.codec.examples import code_grids
from vistok.codec.filler import Filler
from vistok.codec.reduction import tables_of
from vistok.failures import guard
from vistok.terminal import say

LEAST, MOST = 0.02, 0.5  # shares of positions that are hidden
WARMUP = 50  # updates


def main(words: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    guard(run, parser().parse_args(words), again="nothing is left of it, and the same command begins anew")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = Parser(prog="python -m vistok conceal", description=__doc__)
    words.add_argument("codec", help="a folder that python -m vistok codec made")
    words.add_argument("--images", required=True, help="a folder or tar shards to learn from")
    words.add_argument("--image-size", type=at_least(1), default=256, help="pixels of their centre crops")
    words.add_argument("--num-images", type=at_least(1), default=2000, help="at most so many of them")
    words.add_argument("--updates", type=at_least(1), default=2000, help="of the model")
    words.add_argument("--batch-size", type=at_least(1), default=16, help="windows in an update")
    words.add_argument(
        "--lr", type=number(above=0), default=1e-3, help="learning rate, which falls to 0 along a cosine"
    )
    words.add_argument("--width", type=at_least(1), default=128, help="channels of a token")
    words.add_argument("--depth", type=at_least(1), default=4, help="blocks")
    words.add_argument("--window", type=at_least(1), default=16, help="positions along each side that it looks at")
    words.add_argument("--seed", type=at_least(0), default=0)
    words.add_argument("--replace", action="store_true", help="replace the model that the codec has")
    return words


def run(asked: argparse.Namespace) -> None:
    """Train and write."""
    folder = Path(asked.codec)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    with locks.held(folder / locks.NAME, asked.codec):
        codec = load(asked.codec)
        if codec.filler is not None and not asked.replace:
            raise ValueError(f"{asked.codec} has a {FILLER} already; --replace trains another one")
        if asked.updates < 1 or asked.batch_size < 1 or asked.image_size < asked.window * codec.tokenizer.factor:
            raise ValueError(
                f"updates={asked.updates} and batch-size={asked.batch_size} must be at least 1, and "
                f"image-size={asked.image_size} at least window x factor = {asked.window * codec.tokenizer.factor}"
            )
        heads = [rate.head for rate in codec.rates]
        grids = code_grids(codec.tokenizer, heads, asked.images, asked.image_size, asked.num_images)
        torch.manual_seed(asked.seed)
        filler = Filler(codec.tokenizer.quantizer.dim, asked.width, asked.depth, window=asked.window)
        standardise(filler, codec)
        losses = fit(filler, codec, grids, asked.updates, asked.batch_size, asked.lr, asked.seed)
        save_filler(filler, Path(asked.codec))
        last = losses[-max(1, len(losses) // 10) :]
        parameters = sum(p.numel() for p in filler.parameters())
        say(
            f"{folder / FILLER}: {parameters:,} parameters, {np.mean(last):.3f} bits for a hidden code more or less "
            "(mean over the last tenth of the updates, all rates)"
        )


@torch.no_grad()
def standardise(filler: Filler, codec: Codec) -> None:
    """Set the mean and deviation of codewords in use, those of the largest rate."""
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
    """Train in place; the loss of each update in bits.

    Args:
        filler: The model.
        codec: Its rates' codewords.
        grids: For each rate the codes (images, k, h, w) of the same images.
        updates: Steps of the optimizer.
        batch_size: Windows in each.
        lr: Highest learning rate.
        seed: Of windows, rates and what is hidden.
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
    """Random windows of codes (number, k, s, s), and what is hidden of them, (number, s, s) bool."""
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
    """The mean over hidden positions of ``-log p`` of their codes, those of all codebooks together, in nats."""
    queries = filler(latent, ~hidden).movedim(1, -1)[hidden]
    chances = filler.log_chances(queries, tables, counts)
    chosen = codes.movedim(1, -1)[hidden]
    return sum(torch.nn.functional.nll_loss(p, c) for p, c in zip(chances, chosen.T, strict=True))
