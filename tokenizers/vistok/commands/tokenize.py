"""``python -m vistok tokenize TOKENIZER DATA --out DIR``: images to tokens on disk, for a generator.

``torchrun --standalone --nproc-per-node=8 -m vistok tokenize ...`` does the same on eight GPUs. Interrupted or
killed, the same command goes on; what comes out is the same to the last byte, on any number of processes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich import get_console
from rich.console import Console

from vistok.commands.arguments import Parser, at_least, json_object, number, share
from vistok.commands.failures import guard
from vistok.distributed.collectives import rank_and_size
from vistok.distributed.process_group import processes
from vistok.formats.load import load
from vistok.images.decoding import MOST_PIXELS
from vistok.images.evaluation_crops import CROPS
from vistok.processes.patience import PATIENCE
from vistok.tokens.extract import tokenize
from vistok.tokens.protocol import DTYPES, TokenProtocol
from vistok.tokens.sources import open_source
from vistok.tokens.views import VIEWS


def main(words: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    guard(run, parser().parse_args(words), again="the same command goes on")


def run(asked: argparse.Namespace) -> None:
    """Check, build, extract."""
    protocol = TokenProtocol(
        image_size=asked.image_size,
        crop=asked.crop,
        views=asked.views,
        dtype=asked.dtype,
        batch_size=asked.batch_size,
        rate=asked.rate,
        order=asked.order,
    )
    with processes(asked.device) as device:
        rank, _ = rank_and_size()
        get_console().quiet = rank > 0
        source = open_source(asked.data, asked.per_shard)
        tokenizer = load(asked.tokenizer, asked.family, asked.config)
        tokenize(
            tokenizer,
            source,
            Path(asked.out),
            protocol,
            name=asked.tokenizer,
            device=device,
            num_workers=asked.workers,
            max_unreadable=asked.max_unreadable,
            console=Console(quiet=rank > 0),
            max_pixels=asked.max_pixels,
            timeout=asked.timeout,
            take_over=asked.take_over,
        )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = Parser(prog="python -m vistok tokenize", description=__doc__)
    words.add_argument(
        "tokenizer", help="a run folder, an exported folder, a published checkpoint, or user/repo on the hub"
    )
    words.add_argument("data", nargs="+", help="a folder of images, or webdataset tars (braces and * are expanded)")
    words.add_argument("--out", required=True, help="a new folder, or that of an interrupted extraction")
    words.add_argument(
        "--image-size", type=at_least(1), default=256, help="pixels of the square that the tokenizer sees"
    )
    words.add_argument("--crop", default="adm", choices=CROPS, help="how it is cut, as in evaluation")
    words.add_argument("--views", default="none", choices=VIEWS, help="also the mirror image, or LlamaGen's ten crops")
    words.add_argument("--dtype", default="float32", choices=DTYPES, help="bfloat16 is faster; some codes differ")
    words.add_argument("--batch-size", type=at_least(1), default=32, help="images in a forward of each process")
    words.add_argument(
        "--per-shard", type=at_least(1), default=5000, help="images of a folder in a shard; a tar is a shard"
    )
    words.add_argument("--rate", type=share, help="of a dynamic head: the share of regions that get fine codes")
    words.add_argument("--order", default="region", choices=("region", "row"), help="of a dynamic head's sequences")
    words.add_argument("--workers", type=at_least(0), default=2, help="processes that decode images, of each process")
    words.add_argument("--max-unreadable", type=share, default=0.01, help="the share of images that may be unreadable")
    words.add_argument(
        "--timeout", type=number(above=0), default=PATIENCE, help="seconds to wait for a batch of images"
    )
    words.add_argument("--take-over", action="store_true", help="take --out from another machine that has gone silent")
    words.add_argument("--max-pixels", type=at_least(1), default=MOST_PIXELS, help="larger images are unreadable")
    words.add_argument("--device", help="cuda where there is one, else cpu")
    words.add_argument("--family", help="of a published checkpoint, where its keys do not tell")
    words.add_argument("--config", type=json_object, help="what else they do not tell, as JSON")
    return words


if __name__ == "__main__":
    main()
