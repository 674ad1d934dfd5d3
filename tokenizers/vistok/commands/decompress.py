"""``python -m vistok decompress CODEC FILE --out IMAGE``: the image in a file that ``compress`` wrote."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vistok.codec import stream
from vistok.codec.coder import decompress_file, load
from vistok.commands.arguments import Parser, at_least
from vistok.commands.failures import guard
from vistok.files import atomic_write
from vistok.processes import locks


def main(words: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    guard(run, parser().parse_args(words), again="nothing is left of it, and the same command begins anew")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = Parser(prog="python -m vistok decompress", description=__doc__)
    words.add_argument("codec", help="the folder that the file was compressed with")
    words.add_argument("file", help="what compress wrote")
    words.add_argument("--out", required=True, help="the image to write, .png for one without further loss")
    words.add_argument("--conceal", action="store_true", help="guess what was lost with damaged packets")
    words.add_argument(
        "--max-pixels", type=at_least(1), default=stream.MAX_PIXELS, help="refuse files of larger images"
    )
    return words


def run(asked: argparse.Namespace) -> None:
    """Decompress and write."""
    out = Path(asked.out)
    Image.init()
    if out.suffix.lower() not in Image.EXTENSION or Image.EXTENSION[out.suffix.lower()] not in Image.SAVE:
        raise ValueError(f"out={out} has the extension of no image format that Pillow writes")
    image = decompress_file(load(asked.codec), Path(asked.file), asked.conceal, asked.max_pixels)
    with locks.held(locks.beside(out), f"out={out}"), atomic_write(out) as file:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, Image.EXTENSION[out.suffix.lower()])
