"""Writes the tokens of images to disk, for a generator.

``torchrun --standalone --nproc-per-node=8 -m vistok tokenize ...`` does the same on eight GPUs. After an interruption
the same command resumes, on any number of processes. The tokens are the same to the last byte.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich import get_console
from rich.console import Console

from vistok.commands.arguments import TOKENIZER, Parser, at_least, share
from vistok.commands.failures import guard
from vistok.distributed.collectives import rank_and_size
from vistok.distributed.process_group import processes
from vistok.formats.load import load
from vistok.images.decoding import MOST_PIXELS
from vistok.images.evaluation_crops import CROPS, NATIVE
from vistok.tokens.extract import tokenize
from vistok.tokens.protocol import DTYPES, TokenProtocol
from vistok.tokens.sources import open_source
from vistok.tokens.views import VIEWS

IMAGE_SIZE, BATCH_SIZE = 256, 32  # by default


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="the same command resumes")


def run(asked: argparse.Namespace) -> None:
    """Extracts the tokens."""
    native = asked.crop == NATIVE
    if native and asked.image_size is not None:
        raise ValueError(f"--image-size={asked.image_size} is not used with --crop={NATIVE}: images keep their size")
    if asked.tile is not None and not native:
        raise ValueError(f"--tile={asked.tile} needs --crop={NATIVE}")
    protocol = TokenProtocol(
        image_size=asked.image_size or IMAGE_SIZE,
        crop=asked.crop,
        views=asked.views,
        dtype=asked.dtype,
        batch_size=asked.batch_size or (1 if native else BATCH_SIZE),
        rate=asked.rate,
        order=asked.order,
        split_bits=tuple(asked.split_bits) if asked.split_bits else None,
        tile=asked.tile or None,
        overlap=asked.overlap,
    )
    with processes(asked.device) as device:
        rank, _ = rank_and_size()
        get_console().quiet = rank > 0
        source = open_source(asked.images, asked.per_shard, asked.captions, asked.columns)
        tokenizer = load(asked.tokenizer, asked.family, asked.family_config)
        tokenize(
            tokenizer,
            source,
            Path(asked.out),
            protocol,
            name=asked.tokenizer,
            device=device,
            num_workers=asked.num_workers,
            max_unreadable=asked.max_unreadable,
            console=Console(quiet=rank > 0),
            max_pixels=asked.max_pixels,
            timeout=asked.timeout,
            take_over=asked.take_over,
        )


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("tokenize", __doc__)
    parser.add_argument("tokenizer", metavar="TOKENIZER", help=TOKENIZER)
    parser.flag(
        "--images",
        nargs="+",
        help="folder, table of paths, .npz file, Hugging Face data set, or shards (tars, parquet files); braces and * "
        "in names of shards are expanded",
    )
    parser.flag("--columns")
    parser.flag("--out", help="folder of the tokens: a new one, or that of an interrupted extraction")
    parser.flag(
        "--image-size",
        default=None,
        help=f"height and width of the images that are tokenized, in pixels (default: {IMAGE_SIZE})",
    )
    parser.flag(
        "--crop",
        default="adm",
        choices=(*CROPS, NATIVE),
        help="crop from an image to a square, as in evaluation; with native images keep their size",
    )
    parser.flag("--tile")
    parser.flag("--overlap")
    parser.flag(
        "--views",
        default="none",
        choices=VIEWS,
        help="further views of each image: none, flip (the mirror image), or ten (LlamaGen's ten crops)",
    )
    parser.flag(
        "--dtype", default="float32", choices=DTYPES, help="precision of the networks; bfloat16 changes some codes"
    )
    parser.flag(
        "--batch-size",
        help=f"images in a batch of each process (default: {BATCH_SIZE}, or 1 with --crop={NATIVE})",
    )
    parser.flag(
        "--per-shard",
        type=at_least(1),
        metavar="N",
        default=5000,
        help="number of listed images in a shard; each tar becomes one shard",
    )
    parser.flag(
        "--rate",
        type=share,
        metavar="SHARE",
        help="share of the regions that get fine codes, for a dynamic head (default: the router decides)",
    )
    parser.flag("--order", default="region", choices=("region", "row"), help="order of the sequences of a dynamic head")
    parser.flag(
        "--captions",
        action="store_true",
        help="the tokens get the caption of each image: a column of its table, or a text file beside it",
    )
    parser.flag("--split-bits")
    parser.flag("--num-workers", help="number of processes that decode images, for each process that tokenizes")
    parser.flag(
        "--max-unreadable",
        type=share,
        metavar="SHARE",
        default=0.01,
        help="largest share of the images that may be unreadable",
    )
    parser.flag("--timeout", help="seconds to wait for a batch of images before the command ends")
    parser.flag("--take-over")
    parser.flag("--max-pixels", default=MOST_PIXELS, help="pixels of the largest image; a larger one is unreadable")
    parser.flag("--device")
    parser.flag("--family")
    parser.flag("--family-config")
    return parser
