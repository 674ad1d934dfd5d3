"""``python -m vistok tokenize TOKENIZER DATA --out DIR``: images to tokens on disk, for a generator.

``torchrun --standalone --nproc-per-node=8 -m vistok tokenize ...`` does the same on eight GPUs. Interrupted or
killed, the same command goes on; what comes out is the same to the last byte, on any number of processes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import get_console
from rich.console import Console

from vistok.data.images import MOST_PIXELS
from vistok.evaluation.geometry import CROPS
from vistok.evaluation.processes import processes
from vistok.export.checkpoints import load
from vistok.ranks import rank_and_size
from vistok.tokens.extract import tokenize
from vistok.tokens.protocol import DTYPES, Protocol
from vistok.tokens.sources import open_source
from vistok.tokens.views import VIEWS
from vistok.weights import WeightsUnavailable


def main(words: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    asked = parser().parse_args(words)
    try:
        run(asked)
    except (ValueError, OSError, WeightsUnavailable) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")


def run(asked: argparse.Namespace) -> None:
    """Check, build, extract."""
    protocol = Protocol(
        image_size=asked.image_size,
        crop=asked.crop,
        views=asked.views,
        dtype=asked.dtype,
        batch_size=asked.batch_size,
        rate=asked.rate,
        order=asked.order,
    )
    if asked.per_shard < 1:
        raise ValueError(f"--per-shard={asked.per_shard} must be at least 1")
    if asked.max_pixels < 1:
        raise ValueError(f"--max-pixels={asked.max_pixels} must be at least 1")
    config = json.loads(asked.config) if asked.config else None
    with processes(asked.device) as device:
        rank, _ = rank_and_size()
        get_console().quiet = rank > 0
        source = open_source(asked.data, asked.per_shard)
        tokenizer = load(asked.tokenizer, asked.family, config)
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
        )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = argparse.ArgumentParser(prog="python -m vistok tokenize", description=__doc__)
    words.add_argument(
        "tokenizer", help="a run folder, an exported folder, a published checkpoint, or user/repo on the hub"
    )
    words.add_argument("data", nargs="+", help="a folder of images, or webdataset tars (braces and * are expanded)")
    words.add_argument("--out", required=True, help="a new folder, or that of an interrupted extraction")
    words.add_argument("--image-size", type=int, default=256, help="pixels of the square that the tokenizer sees")
    words.add_argument("--crop", default="adm", choices=CROPS, help="how it is cut, as in evaluation")
    words.add_argument("--views", default="none", choices=VIEWS, help="also the mirror image, or LlamaGen's ten crops")
    words.add_argument("--dtype", default="float32", choices=DTYPES, help="bfloat16 is faster; some codes differ")
    words.add_argument("--batch-size", type=int, default=32, help="images in a forward of each process")
    words.add_argument("--per-shard", type=int, default=5000, help="images of a folder in a shard; a tar is a shard")
    words.add_argument("--rate", type=float, help="of a dynamic head: the share of regions that get fine codes")
    words.add_argument("--order", default="region", choices=("region", "row"), help="of a dynamic head's sequences")
    words.add_argument("--workers", type=int, default=2, help="processes that decode images, of each process")
    words.add_argument("--max-unreadable", type=float, default=0.01, help="the share of images that may be unreadable")
    words.add_argument("--max-pixels", type=int, default=MOST_PIXELS, help="larger images are unreadable")
    words.add_argument("--device", help="cuda where there is one, else cpu")
    words.add_argument("--family", help="of a published checkpoint, where its keys do not tell")
    words.add_argument("--config", help="what else they do not tell, as JSON")
    return words


if __name__ == "__main__":
    main()
