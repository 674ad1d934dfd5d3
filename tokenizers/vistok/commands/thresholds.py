"""``python -m vistok thresholds DIR``: the entropies above which an entropy router gives a region finer codes.

Writes the percentiles 1 to 99 of the entropy of regions over all images, with the patch and bins they hold for, and
prints the setting that gives a share of the regions to each finer grain.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vistok import files, versions
from vistok.commands.arguments import Parser, at_least, number
from vistok.commands.failures import guard
from vistok.data import folder, sample
from vistok.data.region_entropies import region_entropies
from vistok.processes import locks
from vistok.quantizers.routers import BANDWIDTH, BINS
from vistok.terminal import say


def main(words: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    guard(run, parser().parse_args(words), again="nothing is left of it, and the same command begins anew")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = Parser(prog="python -m vistok thresholds", description=__doc__)
    words.add_argument("data", help="a folder of images (its subfolder train, if it has a split), or: sample")
    words.add_argument("--output", default="thresholds.json", help="file to write")
    words.add_argument("--image-size", type=at_least(1), default=256, help="pixels of the centre crops")
    words.add_argument("--patch", type=at_least(1), default=16, help="pixels of a region")
    words.add_argument("--low", type=number(), default=-1.0, help="pixel value of the first bin; images are in [-1, 1]")
    words.add_argument("--high", type=number(), default=1.0, help="pixel value of the last bin")
    words.add_argument(
        "--rates", type=number(), nargs="+", default=[0.5], help="shares of regions for grains 1, 2, ..."
    )
    words.add_argument("--images", type=at_least(1), default=50_000, help="at most so many images, spread over all")
    words.add_argument("--workers", type=at_least(0), default=2, help="processes that decode images")
    return words


def run(asked: argparse.Namespace) -> None:
    """Compute, write and print."""
    output = Path(asked.output)
    if output.exists():
        raise ValueError(f"output={output} exists already and is not overwritten")
    if asked.image_size % asked.patch:
        raise ValueError(f"image-size={asked.image_size} is not a multiple of patch={asked.patch}")
    if any(rate <= 0 for rate in asked.rates) or sum(asked.rates) >= 1:
        raise ValueError(f"rates={asked.rates} must be shares above 0 whose sum is below 1")
    size = {"image_size": asked.image_size, "batch_size": 32}
    data = sample(**size) if asked.data == "sample" else folder(asked.data, crop="center", **size)
    entropies = region_entropies(data, asked.patch, asked.low, asked.high, asked.images, asked.workers)
    report: dict[str, Any] = {
        "patch": asked.patch,
        "low": asked.low,
        "high": asked.high,
        "bins": BINS,
        "bandwidth": BANDWIDTH,
        "unit": "nats",
        "image_size": asked.image_size,
        "data": data.about,
        "regions": len(entropies),
        "percentiles": {str(p): float(np.percentile(entropies, p)) for p in range(1, 100)},
        "versions": versions.versions(),
    }
    with locks.held(locks.beside(output), f"output={output}"):
        files.write_json(report, output)
    thresholds = [
        round(float(np.percentile(entropies, 100 * (1 - sum(asked.rates[i:])))), 4) for i in range(len(asked.rates))
    ]
    say(
        f"{len(entropies):,} regions of {data.about}; percentiles written to {output}\n"
        f"shares {asked.rates} of them get finer codes with\n"
        f"  quantizer.router.patch={asked.patch} 'quantizer.router.thresholds={thresholds}' "
        f"quantizer.router.low={asked.low:g} quantizer.router.high={asked.high:g}"
    )


if __name__ == "__main__":
    main()
