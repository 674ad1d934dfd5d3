"""Builds a codec, which compresses images and decompresses them, from tokenizers.

The tokenizers have the same networks and other codebooks: a trained one, those that ``python -m vistok codec reduce``
made of it, and those trained further with ``model.trainable=codebook``. Each is one rate of the codec. The images
determine how often codes are chosen; training images are best.
"""

import argparse
from collections.abc import Sequence

import torch
from rich.console import Console

from vistok.codec.coder import Codec, Rate
from vistok.codec.codewords import codewords_of, with_codewords
from vistok.codec.example_codes import code_grids
from vistok.codec.frequencies import gather
from vistok.commands.arguments import Parser
from vistok.commands.failures import guard
from vistok.files import atomic_folder
from vistok.formats.load import load
from vistok.formats.plain import inference_copy
from vistok.formats.provenance import about_of
from vistok.terminal import say
from vistok.tokenizer import Tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("codec build", __doc__)
    parser.add_argument("tokenizers", nargs="+", metavar="TOKENIZER", help="run folders or exported folders")
    parser.flag("--images")
    parser.flag("--out", help="new folder of the codec, which is also an export of the first tokenizer")
    parser.flag("--image-size")
    parser.flag("--num-images")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Counts codes and writes the codec."""
    tokenizers = [inference_copy(load(source)) for source in asked.tokenizers]
    for source, other in zip(asked.tokenizers[1:], tokenizers[1:], strict=True):
        refuse_other_networks(tokenizers[0], other, source)
    tokenizers_by_size = sorted(tokenizers, key=lambda t: t.quantizer.codebook_sizes, reverse=True)
    heads = [with_codewords(own, codewords_of(own)) for own in (t.quantizer for t in tokenizers_by_size)]
    with atomic_folder(asked.out) as folder:
        grids = code_grids(tokenizers[0], heads, asked.images, asked.image_size, asked.num_images)
        rates = [
            Rate(head, tuple(gather(table, grid[:, i]) for i, table in enumerate(codewords_of(head))))
            for head, grid in zip(heads, grids, strict=True)
        ]
        Codec(tokenizers[0], rates).save(folder, about_of(asked.tokenizers[0]))
    console = Console()
    for i, rate in enumerate(rates):
        sizes = " + ".join(f"{size:,}" for size in rate.sizes)
        say(f"rate {i}: {sizes} codewords", console=console)


def refuse_other_networks(first: Tokenizer, other: Tokenizer, source: str) -> None:
    """Raises ``ValueError`` unless two tokenizers differ in nothing but the size and values of their codebooks."""
    theirs, ours = ({k: v for k, v in t.state_dict().items() if not k.startswith("quantizer.")} for t in (other, first))
    different = [name for name in ours | theirs if name not in ours or name not in theirs]
    different += [name for name in ours if name in theirs and not torch.equal(ours[name], theirs[name])]
    dims = [[table.shape[1] for table in codewords_of(t.quantizer)] for t in (first, other)]
    if different or dims[0] != dims[1] or other.pixels != first.pixels:
        what = different[0] if different else "the codewords' channels or the pixels"
        raise ValueError(f"{source} has other networks than the first tokenizer: {what} differs")
