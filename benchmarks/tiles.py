"""Peak memory of a photo of 24 megapixels through LlamaGen's VQ-16 in tiles, with random weights.

    python benchmarks/tiles.py --passes 2 --gate
    python benchmarks/tiles.py

A second process on one core runs ``python -m vistok reconstruct``, from a JPEG file to a PNG file; its memory is the
kernel's peak of resident memory. With ``--passes N`` only the first N tiles pass each network, and all others are grey:
the memory is the same, since the photo and its reconstruction are complete, and the run takes a minute instead of the
time of 352 tiles.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from skimage import data
from torch import nn

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.commands import reconstruct
from vistok.formats import native
from vistok.quantizers import VectorQuantizer

TARGET = 4.0  # GiB
WIDTH, HEIGHT = 6000, 4000
REACH = 1  # calls of each network that measure its reach


def vq16(path: Path) -> None:
    """Writes a folder with the networks and the head of VQ-16."""
    torch.manual_seed(0)
    maps = nn.Conv2d(256, 8, 1), nn.Conv2d(8, 256, 1)
    native.save(Tokenizer(CNNEncoder(), VectorQuantizer(16384, 8, cosine=True), CNNDecoder(), *maps), path)


def shorten(network: nn.Module, calls: int, channels: int, scale: float) -> None:
    """Makes a network return zeros after so many calls."""
    forward, left = network.forward, calls

    def short(x: torch.Tensor) -> torch.Tensor:
        nonlocal left
        left -= 1
        return forward(x) if left >= 0 else x.new_zeros(len(x), channels, *(int(side * scale) for side in x.shape[2:]))

    network.forward = short


def child(folder: Path, passes: int, tile: int) -> None:
    """Runs the command, then prints its peak."""
    load = reconstruct.load

    def shortened(*settings) -> Tokenizer:
        tokenizer = load(*settings)
        if passes:
            shorten(tokenizer.encoder, passes + REACH, 256, 1 / 16)
            shorten(tokenizer.decoder, passes + REACH, 3, 16)
        return tokenizer

    reconstruct.load = shortened
    words = [folder / "photo.jpg", "--tokenizer", folder / "vq16", "--out", folder / "again.png", "--tile", tile]
    reconstruct.main([*map(str, words), "--device", "cpu"])
    sys.stdout.write(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=0, help="tiles that pass each network; 0 for all")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--gate", action="store_true", help="exit with 1 above 4 GiB")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments.child, arguments.passes, arguments.tile)
    with tempfile.TemporaryDirectory() as folder:
        photo = Image.fromarray(data.astronaut()).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        photo.save(Path(folder, "photo.jpg"), quality=92)
        del photo
        vq16(Path(folder, "vq16"))
        words = ["--passes", str(arguments.passes), "--tile", str(arguments.tile), "--child", folder]
        began = time.monotonic()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        seconds = time.monotonic() - began
        assert Image.open(Path(folder, "again.png")).size == (WIDTH, HEIGHT)
    *said, peak = ended.stdout.strip().splitlines()
    gibibytes = json.loads(peak) / 2**20
    sys.stdout.write("\n".join([*said, f"peak {gibibytes:.2f} GiB, {seconds:.0f} s", ""]))
    if arguments.gate and gibibytes > TARGET:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
