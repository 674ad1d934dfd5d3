"""Writes tokens in another format, and reads them back to compare.

The formats are LlamaGen's and FQGAN's pairs of .npy files, JSON lines, and webdataset tars.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from vistok.commands.arguments import Parser
from vistok.commands.failures import guard
from vistok.files import atomic_folder
from vistok.processes.progress_bar import progress
from vistok.terminal import say
from vistok.tokens.exchange import LAYOUTS, READERS, WRITERS
from vistok.tokens.store import TokenStore


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("tokens export", __doc__)
    parser.add_argument("tokens", metavar="TOKENS", help="folder that python -m vistok tokenize wrote")
    parser.flag("--to", required=True, choices=WRITERS, help="format to write")
    parser.flag("--out", help="new folder")
    parser.flag(
        "--layout",
        choices=LAYOUTS,
        help="order of the codes of several codebooks (default: paired for fqgan, else interleaved)",
    )
    parser.flag("--split-bits")
    parser.flag("--name", metavar="TEXT", default="imagenet", help="name of the data set in llamagen and fqgan files")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Writes the form, reads it back and compares."""
    console = Console()
    store = TokenStore(asked.tokens, asked.split_bits)
    store.header.refuse_native(f"--to={asked.to}")
    layout = asked.layout or ("paired" if asked.to == "fqgan" else "interleaved")
    with atomic_folder(asked.out) as partial:
        with progress(console, "written", len(store), 0) as advance:
            WRITERS[asked.to](store, partial, layout, asked.name, advance)
        with progress(console, "read back", len(store), 0) as advance:
            count = 0
            for i, record in enumerate(READERS[asked.to](partial)):
                if record.label != store.label(i) or not np.array_equal(record.codes, store.codes(i)):
                    raise ValueError(f"image {i} was not read back from {asked.to} as it was written")
                advance(count := i + 1)
        if count != len(store):
            raise ValueError(f"{count} of {len(store)} images were read back from {asked.to}")
    say(f"{len(store):,} images, written and read back: {asked.out}", console=console)
