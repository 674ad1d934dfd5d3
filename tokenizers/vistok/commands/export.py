"""Writes a tokenizer as files for another library, or as a checkpoint of a published family.

The files are loaded again by that library (by vistok for a family). If their codes or images differ from those of the
tokenizer, nothing is written.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from vistok.commands.arguments import TOKENIZER, Parser
from vistok.commands.failures import guard
from vistok.formats import native
from vistok.formats.exporters import graphs, to_diffusers, to_janus, to_llamagen, to_published
from vistok.formats.exporters.parity import Parity
from vistok.formats.exporters.to_folder import save_folder
from vistok.formats.load import load
from vistok.formats.provenance import about_of
from vistok.terminal import say
from vistok.untrusted.bounded_json import read_json

TARGETS: dict[str, Callable[..., Parity]] = {
    "diffusers": to_diffusers.save,
    "llamagen": to_llamagen.save,
    "janus": to_janus.save,
    "onnx": graphs.save_onnx,
    "torch": graphs.save_torch,
    "folder": save_folder,
}
FAMILIES = {name: partial(to_published.save, family=name) for name in to_published.WRITTEN}  # by the family's name


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def run(asked: argparse.Namespace) -> None:
    """Writes the tokenizer, compares it and uploads it if asked to."""
    console = Console()
    if asked.half and asked.to != "folder":
        raise ValueError(f"--half is for --to folder, not {asked.to}")
    about = about_of(asked.tokenizer) | {
        name: value for name, value in (("licence", asked.license), ("name", asked.name)) if value
    }
    if asked.evaluation:
        about["evaluation"] = read_json(Path(asked.evaluation))
    tokenizer = load(asked.tokenizer, asked.family, asked.family_config)
    save = partial(save_folder, half=True) if asked.half else (TARGETS | FAMILIES)[asked.to]
    parity = save(tokenizer, asked.out, about, asked.image_size)
    say(f"{asked.out}: {parity}", console=console)
    if asked.push_to:
        say(native.push_to_hub(asked.out, asked.push_to, asked.private), console=console)


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("export", __doc__)
    parser.add_argument("tokenizer", metavar="TOKENIZER", help=TOKENIZER)
    parser.flag("--to", required=True, choices=TARGETS | FAMILIES, help="library or family to write for")
    parser.flag("--out", help="new folder")
    parser.flag(
        "--image-size",
        default=None,
        help="height and width in pixels of the images that a Janus tokenizer decodes, or that a graph is fixed to "
        "(default: 256 for janus; any size for a graph)",
    )
    parser.flag("--half", action="store_true", help="store float16, half the size; for --to folder")
    parser.flag("--name", metavar="TEXT", help="name of the model on its card (default: that of its run)")
    parser.flag(
        "--license", metavar="NAME", help="licence of the weights as the hub calls it, for the card: apache-2.0, mit"
    )
    parser.flag("--evaluation", metavar="PATH", help="JSON file of an evaluation, for the card")
    parser.flag("--family")
    parser.flag("--family-config")
    parser.flag("--push-to", metavar="USER/REPO", help="repository on the Hugging Face hub to upload the folder to")
    parser.flag("--private", action="store_true", help="make a new repository on the hub private")
    return parser
