"""JPEG files to crops of 256 pixels (ADM's: halved, then bicubic), uint8: ``data.decoder=fast`` against Pillow.

    python benchmarks/decode.py [--gate] [--rounds N]

CPU time of one thread. Both read the same bytes, ten times in each turn, and the medians of the turns are compared. The
files are one photo of scikit-image's in several sizes, quality 92.
"""

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from skimage import data

from vistok.images.crops import ADMCrop, to_tensor
from vistok.images.decoding import read_rgb
from vistok.images.fast_jpeg import read_fast

TARGETS = {(500, 375): 3.0, (1024, 768): 2.5, (1600, 1200): 2.5, (2048, 1536): 2.5}  # Pillow's time over the fast one

TURN = 10  # images


def jpeg(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(data.astronaut()).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


def cropped(read: Callable, file: bytes) -> torch.Tensor:
    return to_tensor(ADMCrop(256)(read(io.BytesIO(file)), np.random.default_rng(0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", action="store_true", help="exit with 1 if a target is not reached")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    met = True
    for size, target in TARGETS.items():
        file = jpeg(size)
        times: dict[str, list[float]] = {"Pillow": [], "fast": []}
        for _ in range(arguments.rounds):
            for name, read in (("Pillow", read_rgb), ("fast", read_fast)):
                started = time.process_time()
                for _ in range(TURN):
                    cropped(read, file)
                times[name].append((time.process_time() - started) / TURN)
        pillow, fast = (statistics.median(values) for values in times.values())
        least = min(times["Pillow"]) / min(times["fast"])
        off = (cropped(read_rgb, file).short() - cropped(read_fast, file).short()).abs().max().item()
        met &= pillow / fast >= target and off <= 1
        print(
            f"{size[0]}x{size[1]} ({len(file) / 1000:.0f} kB): Pillow {1 / pillow:.0f}, fast {1 / fast:.0f} images/s, "
            f"{pillow / fast:.2f} times (of the least times {least:.2f}; target {target}), at most {off} level off"
        )
    if not met and arguments.gate:
        sys.exit(1)


if __name__ == "__main__":
    main()
