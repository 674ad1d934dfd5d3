"""Measures the entropies above which an entropy router gives a region finer codes.

The file has the percentiles 1 to 99 of the entropy of regions over all images, for one patch size and one set of bins.
The command prints the setting that gives each finer granularity its share of the regions.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vistok import files, versions
from vistok.commands.arguments import Parser, at_least, number
from vistok.commands.failures import guard
from vistok.data import folder, sample, shards
from vistok.data.image_paths import LISTED, find_images
from vistok.data.region_entropies import region_entropies
from vistok.processes import locks
from vistok.quantizers.routers import BANDWIDTH, BINS
from vistok.terminal import say


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("data thresholds", __doc__)
    parser.flag("--images", help="any source of images (of one with splits, those to train on), or sample")
    parser.flag("--columns")
    parser.flag("--out", help="JSON file to write; it must be new")
    parser.flag("--image-size")
    parser.flag("--patch", type=at_least(1), metavar="N", default=16, help="height and width of a region, in pixels")
    parser.flag("--low", type=number(), metavar="VALUE", default=-1.0, help="pixel value of the first bin, in [-1, 1]")
    parser.flag("--high", type=number(), metavar="VALUE", default=1.0, help="pixel value of the last bin, in [-1, 1]")
    parser.flag(
        "--rates",
        type=number(),
        nargs="+",
        metavar="SHARE",
        default=[0.5],
        help="shares of the regions that get granularity 1, 2, ...; their sum is below 1",
    )
    parser.flag("--num-images", default=50_000, help="largest number of images, spread evenly over all")
    parser.flag("--num-workers")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Measures the entropies, writes them and prints the setting."""
    output = Path(asked.out)
    if output.exists():
        raise ValueError(f"--out={output} exists already and is not overwritten")
    if asked.image_size % asked.patch:
        raise ValueError(f"--image-size={asked.image_size} is not a multiple of --patch={asked.patch}")
    if any(rate <= 0 for rate in asked.rates) or sum(asked.rates) >= 1:
        raise ValueError(f"--rates={asked.rates} must be shares above 0 whose sum is below 1")
    size: dict[str, Any] = {"image_size": asked.image_size, "batch_size": 32}
    found = find_images(asked.images, "--images", (*LISTED, "sample", "shards"))
    if found.kind == "shards":
        data = shards([asked.images], [asked.images], crop="center", columns=asked.columns, **size)
    elif found.kind == "sample":
        data = sample(**size)
    else:
        data = folder(asked.images, crop="center", columns=asked.columns, **size)
    entropies = region_entropies(data, asked.patch, asked.low, asked.high, asked.num_images, asked.num_workers)
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
    with locks.held(locks.beside(output), f"--out={output}"):
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
