"""``python -m vistok reduce TOKENIZER --sizes 256 64 --images DIR --out DIR``: the same networks with fewer codewords.

Each reduced tokenizer is an exported folder like any other, named by its size: to evaluate, to train further with
``train.py init=``, or to make a codec of.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vistok.codec.example_codes import code_grids, counts_of
from vistok.codec.reduction import reduced, tables_of, with_head, with_tables
from vistok.commands.arguments import Parser, at_least
from vistok.commands.failures import guard
from vistok.files import atomic_folder
from vistok.formats import native
from vistok.formats.exporters.plain import inference_copy
from vistok.formats.load import load
from vistok.formats.provenance import about_of
from vistok.terminal import say


def main(words: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    guard(run, parser().parse_args(words), again="nothing is left of it, and the same command begins anew")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = Parser(prog="python -m vistok reduce", description=__doc__)
    words.add_argument("tokenizer", help="a run folder, an exported folder, or a published checkpoint")
    words.add_argument("--sizes", type=int, nargs="+", required=True, help="codewords in each codebook")
    words.add_argument("--images", help="a folder or tar shards: codewords count as often as these images choose them")
    words.add_argument("--image-size", type=at_least(1), default=256, help="pixels of their centre crops")
    words.add_argument("--num-images", type=at_least(1), default=2000, help="at most so many of them")
    words.add_argument("--seed", type=at_least(0), default=0, help="of the start of k-means")
    words.add_argument("--out", required=True, help="a new folder, for a folder of each size")
    return words


def run(asked: argparse.Namespace) -> None:
    """Reduce and write."""
    tokenizer = inference_copy(load(asked.tokenizer))
    head = tokenizer.quantizer
    tables = tables_of(head)
    smallest = min(map(len, tables))
    for size in asked.sizes:
        if not 2 <= size < smallest:
            raise ValueError(f"sizes={size} must be from 2 to {smallest - 1}: the codebook has {smallest} codewords")
    about = about_of(Path(asked.tokenizer))
    for measured in ("metrics", "evaluation"):  # of the whole codebook
        about.pop(measured, None)
    with atomic_folder(asked.out) as folder:
        weights = [None] * len(tables)
        if asked.images:
            grids = code_grids(tokenizer, [head], asked.images, asked.image_size, asked.num_images)
            weights = counts_of(grids[0], head.codebook_sizes)
        for size in asked.sizes:
            smaller = [reduced(table, size, weight, asked.seed) for table, weight in zip(tables, weights, strict=True)]
            told = {"reduced": {"from": list(head.codebook_sizes), "weighted by": asked.images, "seed": asked.seed}}
            native.save(with_head(tokenizer, with_tables(head, smaller)), folder / str(size), about | told)
    for size in asked.sizes:
        say(f"{Path(asked.out) / str(size)}: {size:,} codewords")
