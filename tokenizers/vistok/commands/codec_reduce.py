"""Clusters the codewords of a tokenizer: the same networks with fewer codewords.

Each result is an exported folder, named by its size. It can be evaluated, trained further (``model.init=``) and made
into a codec.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vistok.codec.example_codes import code_grids, counts_of
from vistok.codec.reduction import reduced, tables_of, with_head, with_tables
from vistok.commands.arguments import TOKENIZER, Parser
from vistok.commands.failures import guard
from vistok.files import atomic_folder
from vistok.formats import native
from vistok.formats.load import load
from vistok.formats.plain import inference_copy
from vistok.formats.provenance import about_of
from vistok.terminal import say


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("codec reduce", __doc__)
    parser.add_argument("tokenizer", metavar="TOKENIZER", help=TOKENIZER)
    parser.flag(
        "--sizes", type=int, nargs="+", metavar="N", required=True, help="numbers of codewords in each codebook"
    )
    parser.flag("--out", help="new folder, with a folder of each size in it")
    parser.flag(
        "--images",
        required=False,
        help="images, any source: codewords are weighted by how often they are chosen (default: all have weight 1)",
    )
    parser.flag("--image-size")
    parser.flag("--num-images")
    parser.flag("--seed", help="seed of the start of k-means")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Clusters the codewords and writes a tokenizer for each size."""
    tokenizer = inference_copy(load(asked.tokenizer))
    head = tokenizer.quantizer
    tables = tables_of(head)
    smallest = min(map(len, tables))
    for size in asked.sizes:
        if not 2 <= size < smallest:
            raise ValueError(f"--sizes={size} must be from 2 to {smallest - 1}: the codebook has {smallest} codewords")
    about = about_of(asked.tokenizer)
    for measured in ("metrics", "evaluation"):  # of the whole codebook
        about.pop(measured, None)
    with atomic_folder(asked.out) as folder:
        weights = [None] * len(tables)
        if asked.images:
            grids = code_grids(tokenizer, [head], asked.images, asked.image_size, asked.num_images)
            weights = counts_of(grids[0], head.codebook_sizes)
        for size in asked.sizes:
            smaller = [reduced(table, size, weight, asked.seed) for table, weight in zip(tables, weights, strict=True)]
            reduction = {
                "reduced": {"from": list(head.codebook_sizes), "weighted by": asked.images, "seed": asked.seed}
            }
            native.save(with_head(tokenizer, with_tables(head, smaller)), folder / str(size), about | reduction)
    for size in asked.sizes:
        say(f"{Path(asked.out) / str(size)}: {size:,} codewords")
