"""Writes an image of any size as a tokenizer reconstructs it from its codes.

Large images pass the networks in tiles, so memory does not grow with the image. The command prints how much
neighbouring tiles differ.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich import get_console
from torch import Tensor

from vistok.commands.arguments import TOKENIZER, Parser
from vistok.commands.failures import guard
from vistok.distributed.process_group import processes
from vistok.formats.load import load
from vistok.images.crops import read_crop
from vistok.images.decoding import MOST_PIXELS
from vistok.images.photos import write_image
from vistok.images.ranges import levels_of, to_float
from vistok.images.reader import PixelForm, reader
from vistok.processes import locks
from vistok.processes.patience import PATIENCE, within
from vistok.processes.progress_bar import progress
from vistok.terminal import say
from vistok.tiles import Tiles
from vistok.tokenizer import Tokenizer

TILE, LARGE = 512, 2 * 2**20  # default side of tiles, and pixels above which there are tiles
ROWS = 256  # compared at a time


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("reconstruct", __doc__)
    parser.add_argument("image", metavar="IMAGE", help="image file of any size")
    parser.flag("--tokenizer", required=True, metavar="PATH", help=TOKENIZER)
    parser.flag("--out", help="image file to write, such as a .png; an existing one is replaced")
    parser.flag(
        "--tile",
        help="side in pixels of the tiles in which a large image passes the networks; 0 for the full image at once "
        f"(default: {TILE} for images of more than {LARGE:,} pixels, else 0)",
    )
    parser.flag("--overlap")
    parser.flag("--max-pixels", default=MOST_PIXELS, help="pixels of the largest image that is accepted")
    parser.flag("--device")
    parser.flag("--family")
    parser.flag("--family-config")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Reconstructs the image and prints the number of its codes and its PSNR."""
    out = Path(asked.out)
    tokenizer = load(asked.tokenizer, asked.family, asked.family_config).eval().fold()
    form = PixelForm(tokenizer.channels, tokenizer.value_range)
    unfinished = out.with_name(f".{out.stem}.partial{out.suffix}")
    with processes(asked.device) as device, locks.held(locks.beside(out), f"--out={out}"):
        try:
            _write(torch.zeros(1, form.channels, 1, 1), unfinished, form, f"--out={out}")  # refuses a wrong extension
            image = _read(asked, form)
            images, about = reconstruction(tokenizer.to(device), image, asked.tile, asked.overlap)
            _write(images, unfinished, form, f"--out={out}")
            os.replace(unfinished, out)
        finally:
            unfinished.unlink(missing_ok=True)
    height, width = image.shape[-2:]
    say(f"{out}: {width}x{height} pixels, {about}; PSNR {_psnr(image, images[0]):.2f} dB")


def reconstruction(
    tokenizer: Tokenizer, image: Tensor, tile: int | None = None, overlap: int | None = None
) -> tuple[Tensor, str]:
    """Reconstructs an image (c, H, W), uint8 or float in [-1, 1]; returns (1, c, H, W) and a sentence about it."""
    height, width = image.shape[-2:]
    sizes = " + ".join(f"{size:,}" for size in tokenizer.quantizer.codebook_sizes)
    if tile is None:
        tile = TILE if height * width > LARGE else 0
    if tile == 0:
        if overlap is not None:
            raise ValueError(f"--overlap={overlap} needs --tile")
        device = next(tokenizer.parameters()).device
        images, emitted = tokenizer.reconstruct(to_float(image[None].to(device)))
        count = emitted.codes.numel() if emitted.keep is None else int(emitted.keep.sum()) * emitted.codes.shape[1]
        return images.float().cpu(), f"{count:,} codes of {sizes}"
    tiles = Tiles(tokenizer, tile, overlap, "--tile")
    done, total = 0, tiles.count(height, width)
    with progress(get_console(), "reconstruct", total, 0, "tiles") as show:

        def advance() -> None:
            nonlocal done
            done += 1
            show(done)

        images, codes, seams = tiles.reconstruct(image[None], advance=advance)
    about = f"{codes.numel():,} codes of {sizes}; tiles of {tile} pixels"
    if tiles.exact:
        about += " change nothing, since their overlap is the reach of the networks"
    elif seams.pixels:
        about += (
            f" differ by {seams.mean:.2f} grey levels on average, and by {seams.largest:.0f} at most, where two overlap"
        )
    return images, about


def _read(asked: argparse.Namespace, form: PixelForm) -> Tensor:
    """Image in its own size."""
    read = reader(max_pixels=asked.max_pixels, pixels=form, argument="--max-pixels")
    try:
        return within(PATIENCE, read_crop, asked.image, read, [], np.random.default_rng(0))
    except ValueError as error:
        raise ValueError(f"{asked.image} cannot be read: {error}") from error


def _write(images: Tensor, path: Path, form: PixelForm, option: str) -> None:
    try:
        write_image(images, path, form.low_high)
    except ValueError as error:
        raise ValueError(f"{option}: {str(error).replace(str(path), 'such a file')}") from error


def _psnr(image: Tensor, again: Tensor) -> float:
    """PSNR in dB of 256 levels, of images (c, H, W)."""
    total = 0.0
    for top in range(0, image.shape[1], ROWS):
        one, other = (levels_of(side[:, top : top + ROWS]).double() for side in (image, again))
        total += float((one - other).square().sum())
    return 10 * float(np.log10(255**2 * image.numel() / total)) if total else float("inf")
