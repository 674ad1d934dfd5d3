"""``python -m vistok conceal CODEC --images DIR``: train the model that guesses lost codes, and add it to a codec.

Random positions of random windows of the images' codes are hidden, at a random rate of the codec; the model learns the
codes behind them by cross-entropy.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vistok.codec.coder import FILLER, load, save_filler
from vistok.codec.example_codes import code_grids
from vistok.codec.filler import Filler
from vistok.codec.filler_training import fit, standardise
from vistok.commands.arguments import Parser, at_least, number
from vistok.commands.failures import guard
from vistok.processes import locks
from vistok.terminal import say


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
