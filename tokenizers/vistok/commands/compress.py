"""``python -m vistok compress CODEC IMAGE --out FILE``: an image as a file of very few bytes."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vistok.codec import stream
from vistok.codec.coder import load
from vistok.codec.range_coder import CODINGS
from vistok.commands.arguments import Parser, at_least
from vistok.commands.failures import guard
from vistok.files import atomic_write
from vistok.images.crops import read_crop
from vistok.images.decoding import read_rgb
from vistok.processes import locks
from vistok.processes.patience import PATIENCE, within
from vistok.terminal import say


def main(words: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    guard(run, parser().parse_args(words), again="nothing is left of it, and the same command begins anew")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = Parser(prog="python -m vistok compress", description=__doc__)
    words.add_argument("codec", help="a folder that python -m vistok codec made")
    words.add_argument("image", help="a JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, PPM or JPEG 2000 file")
    words.add_argument("--out", required=True, help="the file to write; one that is there is replaced")
    words.add_argument("--rate", type=at_least(0), default=0, help="which of the codec's codebooks, 0 the largest")
    words.add_argument("--coding", choices=("best", *CODINGS), default="best", help="how codes become bits")
    words.add_argument("--packets", type=at_least(1), default=1, help="parts of the file any of which may be lost")
    words.add_argument("--max-pixels", type=at_least(1), default=stream.MAX_PIXELS, help="refuse larger images")
    return words


def run(asked: argparse.Namespace) -> None:
    """Compress and say how small it became."""
    out, codec = Path(asked.out), load(asked.codec)
    try:
        read = partial(read_rgb, max_pixels=asked.max_pixels)
        image = within(PATIENCE, read_crop, asked.image, read, [], np.random.default_rng(0))
    except ValueError as error:
        raise ValueError(f"{asked.image} cannot be read: {error}") from error
    data = codec.compress(image, asked.rate, asked.coding, asked.packets, asked.max_pixels)
    with locks.held(locks.beside(out), f"out={out}"), atomic_write(out) as file:
        file.write(data)
    height, width = image.shape[-2:]
    sizes = " + ".join(f"{size:,}" for size in codec.rates[asked.rate].sizes)
    say(
        f"{asked.out}: {len(data):,} bytes, {8 * len(data) / (width * height):.4f} bits per pixel of "
        f"{width}x{height}, {sizes} codewords"
    )
