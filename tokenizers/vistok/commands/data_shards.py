"""Writes images as webdataset tar shards, for ``data=shards``.

The bytes of the images stay as they are. Where the command is interrupted or killed, running it again continues it; the
shards are the same to the last byte. ``index.json``, written last, lists the shards.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vistok.commands.arguments import Parser, at_least
from vistok.commands.failures import guard
from vistok.data.image_paths import find_images
from vistok.data.shard_writer import ArraySamples, FolderSamples, convert


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="the same command goes on")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("data shards", __doc__)
    parser.flag("--images", help="folder of images, or an .npz file with data, offsets, labels and classes")
    parser.flag("--out", help="folder of the shards: a new one, or that of an interrupted conversion")
    parser.flag("--per-shard", type=at_least(1), metavar="N", default=1000, help="number of images in a shard")
    parser.flag("--seed", help="seed of the random order of the images over all shards")
    parser.flag("--in-order", action="store_true", help="keep the order of the folder or file")
    parser.flag("--timeout", help="seconds to wait for an image before the command ends")
    parser.flag("--take-over")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Writes the shards of a folder or an ``.npz`` file."""
    path = Path(asked.images)
    if not path.exists():
        raise ValueError(f"there is no {path}")
    kind, path, _ = find_images(asked.images, "--images", ("folder", "split", "arrays"))
    source = ArraySamples(path) if kind == "arrays" else FolderSamples(path)
    seed = None if asked.in_order else asked.seed
    convert(source, Path(asked.out), asked.per_shard, seed, Console(), asked.timeout, asked.take_over)
