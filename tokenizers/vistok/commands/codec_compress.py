"""Compresses an image to a very small file."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vistok.codec import stream
from vistok.codec.codec_folder import load
from vistok.codec.range_coder import CODINGS
from vistok.commands.arguments import Parser, at_least
from vistok.commands.failures import guard
from vistok.files import atomic_write
from vistok.images.crops import read_crop
from vistok.images.decoding import read_rgb
from vistok.processes import locks
from vistok.processes.patience import PATIENCE, within
from vistok.terminal import say


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("codec compress", __doc__, {"--rate": "--codebook", "--packets": "--num-packets"})
    parser.add_argument("image", metavar="IMAGE", help="JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, PPM or JPEG 2000 file")
    parser.flag("--codec", required=True, metavar="PATH", help="folder that python -m vistok codec build wrote")
    parser.flag("--out", help="compressed file to write; an existing one is replaced")
    parser.flag(
        "--codebook",
        type=at_least(0),
        metavar="N",
        default=0,
        help="index of one of the codec's codebooks; 0 is the largest, with the best images",
    )
    parser.flag(
        "--coding", choices=("best", *CODINGS), default="best", help="entropy coding of the codes; best tries them all"
    )
    parser.flag(
        "--num-packets", type=at_least(1), metavar="N", default=1, help="parts of the file, any of which may be lost"
    )
    parser.flag("--max-pixels", default=stream.MAX_PIXELS, help="pixels of the largest image that is accepted")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Compresses the image and prints the size of the file."""
    out, codec = Path(asked.out), load(asked.codec)
    try:
        read = partial(read_rgb, max_pixels=asked.max_pixels)
        image = within(PATIENCE, read_crop, asked.image, read, [], np.random.default_rng(0))
    except ValueError as error:
        raise ValueError(f"{asked.image} cannot be read: {error}") from error
    data = codec.compress(image, asked.codebook, asked.coding, asked.num_packets, asked.max_pixels)
    with locks.held(locks.beside(out), f"--out={out}"), atomic_write(out) as file:
        file.write(data)
    height, width = image.shape[-2:]
    sizes = " + ".join(f"{size:,}" for size in codec.rates[asked.codebook].sizes)
    say(
        f"{asked.out}: {len(data):,} bytes, {8 * len(data) / (width * height):.4f} bits per pixel of "
        f"{width}x{height}, {sizes} codewords"
    )
