"""Reads tokens again and checks every file: its sha256 and the range of its codes.

With a tokenizer, it also draws some decoded images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from vistok.commands.arguments import Parser
from vistok.commands.failures import guard
from vistok.formats.load import load
from vistok.processes.progress_bar import progress
from vistok.quantizers import Layout
from vistok.terminal import say
from vistok.tokens.sheet import sheet
from vistok.tokens.store import TokenStore


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("tokens check", __doc__)
    parser.add_argument("tokens", metavar="TOKENS", help="folder that python -m vistok tokenize wrote")
    parser.flag("--tokenizer", metavar="PATH", help="tokenizer that made the tokens; its hash must agree")
    parser.flag("--family")
    parser.flag("--family-config")
    parser.flag("--out", required=False, help="picture of decoded images to write, .png or .jpg; needs --tokenizer")
    parser.flag("--num-images", default=32, help="number of images on the picture, spread evenly over all")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Verifies all files and draws the picture."""
    if (asked.out is None) != (asked.tokenizer is None):
        raise ValueError("--out, a picture, needs --tokenizer, which decodes it, and the other way round")
    console = Console()
    store = TokenStore(asked.tokens)
    tokenizer = load(asked.tokenizer, asked.family, asked.family_config) if asked.tokenizer else None
    if tokenizer:
        store.header.check_tokenizer(tokenizer)
    with progress(console, "verified", len(store), 0) as advance:
        for verified in store.verify():
            advance(verified)
    labelled = int((store.labels >= 0).sum())
    header = store.header
    grids = "a grid for each image" if header.native else grids_of(header.layout)
    codebooks = " + ".join(f"{size:,}" for size in header.codebook_sizes)
    say(
        f"{len(store):,} images in {header.num_views} view{'s' * (header.num_views > 1)}, {labelled:,} with a label; "
        f"{grids}, {codebooks} codewords; every file is intact",
        console=console,
    )
    if tokenizer:
        path = Path(asked.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = np.unique(np.linspace(0, len(store) - 1, asked.num_images).round().astype(int))
        sheet(store, tokenizer, chosen.tolist()).save(path)
        say(f"decoded to {path}", console=console)


def grids_of(layout: Layout) -> str:
    """Words for the grid, or for those of all scales."""
    first, last = (f"{h} x {w}" for h, w in (layout.grids[0], layout.grids[-1]))
    if len(layout.grids) == 1:
        return f"grid {first}"
    return f"{len(layout.grids)} scales from {first} to {last} ({layout.positions[1]:,} positions)"
