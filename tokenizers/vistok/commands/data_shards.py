"""Writes images as webdataset tar shards, for ``data=shards``.

Image files are copied byte for byte, with their labels (``KEY.cls``) and captions (``KEY.txt``). After an interruption
the same command resumes. The shards are the same to the last byte. ``index.json``, written last, lists them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vistok.commands.arguments import Parser, at_least
from vistok.commands.failures import guard
from vistok.data.listings.listing import Wanted
from vistok.data.listings.opening import open_listing
from vistok.data.shard_writer import Samples, convert


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="the same command resumes")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("data shards", __doc__)
    parser.flag("--images", help="folder of images, table of paths, .npz file or Hugging Face data set")
    parser.flag("--columns")
    parser.flag("--out", help="folder of the shards: a new one, or that of an interrupted conversion")
    parser.flag("--per-shard", type=at_least(1), metavar="N", default=1000, help="number of images in a shard")
    parser.flag("--seed", help="seed of the random order of the images over all shards")
    parser.flag("--in-order", action="store_true", help="keep the order of the folder or file")
    parser.flag("--timeout", help="seconds to wait for an image before the command ends")
    parser.flag("--take-over")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Writes the shards of a source of images."""
    images = open_listing(asked.images, "--images", Wanted("known", "known"), asked.columns)
    seed = None if asked.in_order else asked.seed
    convert(Samples(images), Path(asked.out), asked.per_shard, seed, Console(), asked.timeout, asked.take_over)
