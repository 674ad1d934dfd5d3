"""Decompresses a file that ``python -m vistok codec compress`` wrote to an image."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vistok.codec import stream
from vistok.codec.codec_folder import load
from vistok.codec.coder import decompress_file
from vistok.commands.arguments import Parser
from vistok.commands.failures import guard
from vistok.files import atomic_write
from vistok.processes import locks
from vistok.terminal import say


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("codec decompress", __doc__)
    parser.add_argument("file", metavar="FILE", help="compressed file")
    parser.flag("--codec", required=True, metavar="PATH", help="folder of the codec that the file was compressed with")
    parser.flag("--out", help="image file to write; .png is lossless")
    parser.flag("--conceal", action="store_true", help="predict the codes of missing and damaged packets")
    parser.flag("--max-pixels", default=stream.MAX_PIXELS, help="pixels of the largest image that is accepted")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Decompresses the file and writes the image."""
    out = Path(asked.out)
    Image.init()
    if out.suffix.lower() not in Image.EXTENSION or Image.EXTENSION[out.suffix.lower()] not in Image.SAVE:
        raise ValueError(f"--out={out} has the extension of no image format that Pillow writes")
    image = decompress_file(load(asked.codec), Path(asked.file), asked.conceal, asked.max_pixels)
    with locks.held(locks.beside(out), f"--out={out}"), atomic_write(out) as file:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, Image.EXTENSION[out.suffix.lower()])
    size = f"{image.shape[2]} x {image.shape[1]} pixels from {Path(asked.file).stat().st_size:,} bytes"
    say(f"{size}: {out}")
