"""``python -m vistok convert SOURCE DESTINATION``: images as webdataset tar shards, for ``data=shards``.

The bytes of the images stay as they are. Interrupted or killed, the same command goes on where it was; what comes out
is the same to the last byte. ``index.json``, written last, lists the shards.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vistok.commands.arguments import Parser, at_least, number
from vistok.commands.failures import guard
from vistok.data.shard_writer import ArraySamples, FolderSamples, convert
from vistok.processes.patience import PATIENCE


def main(words: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    guard(run, parser().parse_args(words), again="the same command goes on")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = Parser(prog="python -m vistok convert", description=__doc__)
    words.add_argument("source", help="a folder of images, or an .npz file of data, offsets, labels and classes")
    words.add_argument("destination", help="a new folder, or that of an interrupted conversion")
    words.add_argument("--per-shard", type=at_least(1), default=1000, help="images in a shard")
    words.add_argument("--shuffle-seed", type=at_least(0), default=0, help="of the order of the images over all shards")
    words.add_argument("--in-order", action="store_true", help="keep the order of the source")
    words.add_argument("--timeout", type=number(above=0), default=PATIENCE, help="seconds to wait for an image")
    words.add_argument("--take-over", action="store_true", help="take the folder from another machine gone silent")
    return words


def run(asked: argparse.Namespace) -> None:
    """Find out what the source is, and convert it."""
    path = Path(asked.source)
    if not path.exists():
        raise ValueError(f"there is no {path}")
    source = FolderSamples(path) if path.is_dir() else ArraySamples(path)
    seed = None if asked.in_order else asked.shuffle_seed
    convert(source, Path(asked.destination), asked.per_shard, seed, Console(), asked.timeout, asked.take_over)


if __name__ == "__main__":
    main()
