"""``python -m vistok tokens check|export DIR``: look at tokens that ``tokenize`` wrote, or write them for others.

``check`` reads every file again, compares its sha256 and the range of its codes, and decodes a sheet to look at.
``export`` writes LlamaGen's or FQGAN's pairs of .npy files, JSON lines, or webdataset tars, and reads them back.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from vistok.commands.arguments import Parser, at_least
from vistok.commands.failures import guard
from vistok.files import atomic_folder
from vistok.formats.load import load
from vistok.processes.progress_bar import progress
from vistok.terminal import say
from vistok.tokens.exchange import LAYOUTS, READERS, WRITERS
from vistok.tokens.sheet import sheet
from vistok.tokens.store import TokenStore


def main(words: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    guard(run, parser().parse_args(words), again="nothing is left of it, and the same command begins anew")


def run(asked: argparse.Namespace) -> None:
    """Check or export."""
    {"check": check, "export": export}[asked.action](asked, Console())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = Parser(prog="python -m vistok tokens", description=__doc__)
    actions = words.add_subparsers(dest="action", required=True)
    checking = actions.add_parser("check", help="verify all files, and decode some images")
    checking.add_argument("folder", help="what tokenize wrote")
    checking.add_argument("--tokenizer", help="that made them; its hash must agree")
    checking.add_argument("--sheet", help="picture to write, .png or .jpg")
    checking.add_argument("--images", type=at_least(1), default=32, help="on the sheet, spread over all")
    exporting = actions.add_parser("export", help="write another form")
    exporting.add_argument("folder", help="what tokenize wrote")
    exporting.add_argument("--to", required=True, choices=WRITERS, help="the form")
    exporting.add_argument("--out", required=True, help="a new folder")
    exporting.add_argument("--layout", choices=LAYOUTS, help="of several codebooks; interleaved, in fqgan paired")
    exporting.add_argument("--name", default="imagenet", help="of the data set, for llamagen and fqgan")
    return words


def check(asked: argparse.Namespace, console: Console) -> None:
    """Verify, and draw the sheet."""
    if (asked.sheet is None) != (asked.tokenizer is None):
        raise ValueError("--sheet needs --tokenizer, which decodes it, and the other way round")
    store = TokenStore(asked.folder)
    tokenizer = load(asked.tokenizer) if asked.tokenizer else None
    if tokenizer:
        store.header.check_tokenizer(tokenizer)
    with progress(console, "verified", len(store), 0) as advance:
        for seen in store.verify():
            advance(seen)
    labelled = int((store.labels >= 0).sum())
    header = store.header
    codebooks = " + ".join(f"{size:,}" for size in header.codebook_sizes)
    say(
        f"{len(store):,} images in {header.num_views} view{'s' * (header.num_views > 1)}, {labelled:,} with a label; "
        f"grid {header.grid[0]} x {header.grid[1]}, {codebooks} codewords; every file is as it was written",
        console=console,
    )
    if tokenizer:
        path = Path(asked.sheet)
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = np.unique(np.linspace(0, len(store) - 1, asked.images).round().astype(int))
        sheet(store, tokenizer, chosen.tolist()).save(path)
        say(f"decoded to {path}", console=console)


def export(asked: argparse.Namespace, console: Console) -> None:
    """Write a form, read it back, compare."""
    store = TokenStore(asked.folder)
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


if __name__ == "__main__":
    main()
