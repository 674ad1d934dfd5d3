"""``python -m vistok export SOURCE --to TARGET --out DIR``: a tokenizer for those who load it elsewhere.

What was written is loaded by the library that it is for and compared with the tokenizer; where they differ, nothing
is left.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from vistok.arguments import Parser, at_least, json_object
from vistok.export import graph, hub, janus, llamagen, vqmodel
from vistok.export.checkpoints import load, shipped
from vistok.export.folders import whole_folder
from vistok.export.parity import Encoded, Parity, check, sizes_of
from vistok.export.plain import inference_copy
from vistok.failures import guard
from vistok.terminal import say
from vistok.tokenizer import Tokenizer

OF_RUN = ("name", "image_size", "batch_size", "seed")  # of a run's config.yaml, for the model card


def save_folder(
    tokenizer: Tokenizer,
    folder: str | Path,
    about: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    half: bool = False,
) -> Parity:
    """Write our own folder, load it again, check it, and give it its name.

    The arguments are those of the others, and ``half``: see ``hub.save``. What is checked then is the tokenizer of the
    rounded weights.
    """
    folded = inference_copy(tokenizer)
    if half:
        for name, tensor in folded.state_dict().items():
            tensor.copy_(hub.stored_half(name, tensor))
    with whole_folder(folder) as unnamed:
        read = hub.load(hub.save(folded, unnamed, dict(about or {}), half))

        def encode(images):
            codes, keep = read.to_codes(images)
            return Encoded(codes, read.encode(images), keep)

        sizes = sizes_of(folded) if image_size is None else [(image_size, image_size)]
        return check(folded, encode, lambda codes, size: read.decode(read.lookup(codes, size), size), sizes)


TARGETS: dict[str, Callable[..., Parity]] = {
    "diffusers": vqmodel.save,
    "llamagen": llamagen.save,
    "janus": janus.save,
    "onnx": graph.save_onnx,
    "torch": graph.save_torch,
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
        say(hub.push_to_hub(asked.out, asked.push_to, asked.private), console=console)


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


def about_of(source: Path) -> dict[str, Any]:
    """What a run or an exported folder tells of itself; nothing for other sources."""
    about: dict[str, Any] = {}
    for folder in (source / "tokenizer", source):
        path = folder / hub.CONFIG
        if path.is_file():
            told = json.loads(path.read_text())
            told = told.get("about") if isinstance(told, dict) else None
            about |= told if isinstance(told, dict) else {}
            break
    run = source / "config.yaml"
    if run.is_file():
        config = cast(DictConfig, OmegaConf.load(run))
        about |= {name: config[name] for name in OF_RUN if config.get(name) is not None}
    return about


if __name__ == "__main__":
    main()
