"""Writes tokens in another form, and reads them back to compare.

The forms are LlamaGen's and FQGAN's pairs of .npy files, JSON lines, and webdataset tars.
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


def main(words: Sequence[str] | None = None) -> None:
    """Run the command with the words that follow its name."""
    guard(run, parser().parse_args(words), again="nothing is left of it, and the same command begins anew")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    words = Parser("tokens export", __doc__)
    words.add_argument("tokens", metavar="TOKENS", help="folder that python -m vistok tokenize wrote")
    words.flag("--to", required=True, choices=WRITERS, help="form to write")
    words.flag("--out", help="new folder")
    words.flag(
        "--layout",
        choices=LAYOUTS,
        help="order of the codes of several codebooks (default: paired for fqgan, else interleaved)",
    )
    words.flag("--name", metavar="TEXT", default="imagenet", help="name of the data set in llamagen and fqgan files")
    return words


def run(asked: argparse.Namespace) -> None:
    """Write a form, read it back, compare."""
    console = Console()
    store = TokenStore(asked.tokens)
    layout = asked.layout or ("paired" if asked.to == "fqgan" else "interleaved")
    with atomic_folder(asked.out) as partial:
        with progress(console, "written", len(store), 0) as advance:
            WRITERS[asked.to](store, partial, layout, asked.name, advance)
        with progress(console, "read back", len(store), 0) as advance:
            seen = 0
            for i, record in enumerate(READERS[asked.to](partial)):
                if record.label != store.label(i) or not np.array_equal(record.codes, store.codes(i)):
                    raise ValueError(f"image {i} was not read back from {asked.to} as it was written")
                advance(seen := i + 1)
        if seen != len(store):
            raise ValueError(f"{seen} of {len(store)} images were read back from {asked.to}")
    say(f"{len(store):,} images, written and read back: {asked.out}", console=console)
