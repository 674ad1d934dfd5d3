"""``python -m vistok export SOURCE --to TARGET --out DIR``: a tokenizer for those who load it elsewhere.

What was written is loaded by the library that it is for and compared with the tokenizer; where they differ, nothing
is left.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from vistok.commands.arguments import Parser, at_least, json_object
from vistok.commands.failures import guard
from vistok.formats import native
from vistok.formats.exporters import graphs, to_diffusers, to_janus, to_llamagen
from vistok.formats.exporters.parity import Parity
from vistok.formats.exporters.to_folder import save_folder
from vistok.formats.load import load, shipped
from vistok.formats.provenance import about_of
from vistok.terminal import say

TARGETS: dict[str, Callable[..., Parity]] = {
    "diffusers": to_diffusers.save,
    "llamagen": to_llamagen.save,
    "janus": to_janus.save,
    "onnx": graphs.save_onnx,
    "torch": graphs.save_torch,
    "folder": save_folder,
}


def main(words: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    guard(run, parser().parse_args(words), again="nothing is left of it, and the same command begins anew")


def run(asked: argparse.Namespace) -> None:
    """Read, write, compare, and upload where that is asked for."""
    console = Console()
    if asked.half and asked.to != "folder":
        raise ValueError(f"--half is for --to folder, not {asked.to}")
    about = about_of(shipped(asked.source)) | {
        name: value for name, value in (("licence", asked.license), ("name", asked.name)) if value
    }
    if asked.evaluation:
        about["evaluation"] = json.loads(Path(asked.evaluation).read_text())
    tokenizer = load(asked.source, asked.family, asked.config)
    save = partial(save_folder, half=True) if asked.half else TARGETS[asked.to]
    parity = save(tokenizer, asked.out, about, asked.image_size)
    say(f"{asked.out}: {parity}", console=console)
    if asked.push_to:
        say(native.push_to_hub(asked.out, asked.push_to, asked.private), console=console)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = Parser(prog="python -m vistok export", description=__doc__)
    words.add_argument(
        "source", help="a run folder, an exported folder, a published checkpoint, or user/repo on the hub"
    )
    words.add_argument("--to", required=True, choices=TARGETS, help="what to write")
    words.add_argument("--out", required=True, help="a new folder")
    words.add_argument(
        "--image-size", type=at_least(1), help="the one size that janus decodes; or that a graph is fixed to"
    )
    words.add_argument("--half", action="store_true", help="of a folder: store float16, half the size")
    words.add_argument("--name", help="of the model, for its card")
    words.add_argument("--license", help="of the weights, for the card, as the hub calls it: apache-2.0, mit, other")
    words.add_argument("--evaluation", help="the JSON file that eval.py wrote, for the card")
    words.add_argument("--family", help="of a published checkpoint, where its keys do not tell")
    words.add_argument("--config", type=json_object, help="what else they do not tell, as JSON")
    words.add_argument("--push-to", metavar="USER/REPO", help="upload the folder to the Hugging Face hub as well")
    words.add_argument("--private", action="store_true", help="a repository made for that is private")
    return words


if __name__ == "__main__":
    main()
