"""Trains the model that predicts lost codes, the concealment model, and adds it to a codec.

Each training step hides random positions of random windows of codes, at a random rate of the codec. The model learns to
predict the hidden codes by cross-entropy.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vistok.codec.codec_folder import load
from vistok.codec.coder import FILLER, save_filler
from vistok.codec.example_codes import code_grids
from vistok.codec.filler import Filler
from vistok.codec.filler_training import fit, standardise
from vistok.codec.reduction import tables_of
from vistok.commands.arguments import Parser, at_least, number
from vistok.commands.failures import guard
from vistok.processes import locks
from vistok.terminal import say


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    renamed = {"--width": "--channels", "--depth": "--num-blocks"}
    parser = Parser("codec train-concealment", __doc__, renamed)
    parser.add_argument("codec", metavar="CODEC", help="folder that python -m vistok codec build wrote")
    parser.flag("--images")
    parser.flag("--image-size")
    parser.flag("--num-images")
    parser.flag(
        "--updates", type=at_least(1), metavar="N", default=2000, help="training steps of the concealment model"
    )
    parser.flag("--batch-size", default=16, help="windows in a training step")
    parser.flag(
        "--lr",
        type=number(above=0),
        metavar="RATE",
        default=1e-3,
        help="learning rate of the first training step; it falls to 0 along a cosine",
    )
    parser.flag("--channels", type=at_least(1), metavar="N", default=128, help="channels of the concealment model")
    parser.flag("--num-blocks", type=at_least(1), metavar="N", default=4, help="blocks of the concealment model")
    parser.flag(
        "--window",
        type=at_least(1),
        metavar="N",
        default=16,
        help="height and width of the window that the concealment model sees, in positions of the code grid",
    )
    parser.flag("--seed", help="seed of the weights, the windows and the hidden positions")
    parser.flag("--replace", action="store_true", help="replace the concealment model that the codec has")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Trains the model and writes it."""
    folder = Path(asked.codec)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    with locks.held(folder / locks.NAME, asked.codec):
        codec = load(asked.codec)
        tables_of(codec.tokenizer.quantizer, "have a concealment model")
        if codec.filler is not None and not asked.replace:
            raise ValueError(f"{asked.codec} has a {FILLER} already; --replace trains another one")
        least = asked.window * codec.tokenizer.factor
        if asked.image_size < least:
            raise ValueError(f"--image-size={asked.image_size} must be at least --window x factor = {least}")
        heads = [rate.head for rate in codec.rates]
        grids = code_grids(codec.tokenizer, heads, asked.images, asked.image_size, asked.num_images)
        torch.manual_seed(asked.seed)
        filler = Filler(codec.tokenizer.quantizer.dim, asked.channels, asked.num_blocks, window=asked.window)
        standardise(filler, codec)
        losses = fit(filler, codec, grids, asked.updates, asked.batch_size, asked.lr, asked.seed)
        save_filler(filler, Path(asked.codec))
        last = losses[-max(1, len(losses) // 10) :]
        parameters = sum(p.numel() for p in filler.parameters())
        say(
            f"{folder / FILLER}: {parameters:,} parameters, {np.mean(last):.3f} bits for a hidden code more or less "
            "(mean over the last tenth of the updates, all rates)"
        )
