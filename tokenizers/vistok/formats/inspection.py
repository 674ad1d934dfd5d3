"""Description of a published checkpoint: its tokenizer's place, what was concluded and why, and what is unknown."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vistok.formats.containers import Unwrapped
from vistok.formats.families import FAMILIES, guessed, unwrapped
from vistok.formats.importers.hyperparameters import Unknown, Watched
from vistok.formats.load import tokenizer_of
from vistok.structure import WeightCount
from vistok.tokenizer import Tokenizer
from vistok.untrusted.bounded_json import one_line, short
from vistok.untrusted.tensor_files import metadata_of

SIZE = 256  # side in pixels of the image whose codes are counted where a tokenizer accepts it
CARD = 2**16  # bytes of a card that are read


def conclusions(tree: Any, config: Mapping[str, Any]) -> Iterator[str]:
    """Lines about the tokenizer that ``vistok.load`` makes of a checkpoint, or the reason why it makes none.

    Args:
        tree: Content of the checkpoint.
        config: Settings that are known beside it, as from a folder's ``config.json``.
    """
    try:
        found = unwrapped(tree)
        family = guessed(found.tensors)
    except ValueError as error:
        yield f"vistok.load: {error}"
        return
    if family is not None:
        yield f"family: {family}"
        yield f"known by: {reasons(family, found)}"
        yield from places(found)
    watched = Watched(config)
    try:
        tokenizer = tokenizer_of(tree, None, watched, "ema")
    except Unknown as error:
        yield from concluded(watched)
        yield f"unknown: {error}"
        return
    except ValueError as error:
        yield "family: none that is known here" if family is None else ""
        yield f"vistok.load: {error}"
        return
    yield from concluded(watched)
    yield summary(tokenizer)


def reasons(family: str, found: Unwrapped) -> str:
    """Names, and the codebook where names do not suffice, that determine a family."""
    own = next((known for known in FAMILIES if all(name in found.tensors for name in known.has)), None)
    if own is None or own.name == family:
        return ", ".join(own.has if own else ())
    table = next((value for name, value in found.tensors.items() if name == "quantize.embedding.weight"), None)
    size = "" if table is None else f", {' x '.join(f'{side:,}' for side in table.shape)}"
    return f"the size of its codebook{size}; {own.name} has the same names"


def places(found: Unwrapped) -> Iterator[str]:
    """Lines about the place of a tokenizer in its file, and about further copies."""
    if found.prefix:
        yield f"wrapper: its names are under {found.prefix}"
    if found.averages is not None:
        yield f"weights: averaged, from {found.averages}*; weights='raw' gives the others"
    if found.others:
        yield f"also there: {', '.join(found.others[:8])}"


def concluded(watched: Watched) -> Iterator[str]:
    """Lines about settings that were taken from the published model of the same sizes."""
    for path, value in watched.published.items():
        yield f"concluded from its sizes: {path} is {short(value)}; config= gives another"


def summary(tokenizer: Tokenizer) -> str:
    """Parameters, head and codes of a tokenizer in one line."""
    sizes = " + ".join(f"{size:,}" for size in tokenizer.quantizer.codebook_sizes)
    return (
        f"tokenizer: {WeightCount.of(tokenizer)}, {type(tokenizer.quantizer).__name__} of {sizes} codewords of "
        f"{tokenizer.quantizer.dim} channels, {codes(tokenizer)}"
    )


def codes(tokenizer: Tokenizer) -> str:
    """Number of codes of an image, by the head's layout."""
    try:
        height, width = tokenizer.only_size or tokenizer.padded_size(SIZE, SIZE)
    except ValueError:  # an encoder of other sizes
        height, width = 16 * tokenizer.factor, 16 * tokenizer.factor
    try:
        layout = tokenizer.quantizer.layout(*tokenizer.grid(height, width))
    except ValueError as error:
        return f"which refuses images of {height} x {width}: {one_line(error)}"
    number, f = layout.codebooks, tokenizer.factor
    h, w = layout.positions
    if len(layout.grids) > 1 or h == 1:
        scales = f" on {len(layout.grids)} grids" * (len(layout.grids) > 1)
        return f"{number * h * w:,} codes{scales} for an image of {height} x {width} pixels"
    region = f * 2 ** (layout.granularities - 1)
    if layout.granularities > 1:
        return f"{number} to {number * 4 ** (layout.granularities - 1)} codes for each {region} x {region} pixels"
    return f"{'one code' if number == 1 else f'{number} codes'} for each {f} x {f} pixels"


def licence(file: Path) -> str | None:
    """Licence of a checkpoint in its metadata, or in the card beside it; None if neither has one."""
    try:
        stated = metadata_of(file).get("license")
    except ValueError:
        stated = None
    if stated:
        return f"{one_line(stated, 80)}, by its metadata"
    card = file.parent / "README.md"
    if card.is_file():
        with card.open("rb") as opened:
            head = opened.read(CARD).decode("utf-8", errors="replace")
        match = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
        found = re.search(r"^license(?:_name)?:[ \t]*(\S.*)$", match[1], re.MULTILINE) if match else None
        if found:
            return f"{one_line(found[1], 80)}, by {card.name} beside it"
    return None
