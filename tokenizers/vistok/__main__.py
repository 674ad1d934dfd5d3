"""``python -m vistok COMMAND ...``, or ``vistok COMMAND ...``: all commands of an installed vistok."""

import sys
from collections.abc import Sequence
from importlib import import_module

import vistok
from vistok.processes import openmp

COMMANDS = {  # name: module and function of the rest of the words (main where none is named), what it does
    "train": ("vistok.commands.train:train", "train a tokenizer, as train.py of the repository does"),
    "eval": ("vistok.commands.eval:evaluate", "score tokenizers, as eval.py of the repository does"),
    "export": ("vistok.commands.export", "write a tokenizer for diffusers, LlamaGen, transformers, ONNX or torch"),
    "inspect": ("vistok.commands.inspect", "say what is in a checkpoint: keys, tensors, what was not read"),
    "convert": ("vistok.commands.convert", "write images as tar shards"),
    "reduce": ("vistok.commands.reduce", "cluster a tokenizer's codewords: fewer bits from the same networks"),
    "codec": ("vistok.commands.build_codec", "make a codec of a tokenizer and its reduced codebooks"),
    "conceal": ("vistok.commands.conceal", "train the model that guesses what a damaged file has lost"),
    "compress": ("vistok.commands.compress", "write an image as a file of very few bytes"),
    "decompress": ("vistok.commands.decompress", "write the image in such a file"),
    "tokenize": ("vistok.commands.tokenize", "write the tokens of images, for a generator"),
    "tokens": ("vistok.commands.manage_tokens", "check tokens, decode some to look at, write them for others"),
    "thresholds": ("vistok.commands.thresholds", "measure the entropies an entropy router needs"),
}
HYDRA = ("train", "eval")  # these read sys.argv themselves


def usage() -> str:
    """The help text."""
    lines = [f"  {name:12}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join([
        f"vistok {vistok.__version__}: train, evaluate and export discrete visual tokenizers",
        "",
        "usage: python -m vistok COMMAND ...    (COMMAND --help tells the rest)",
        "",
        *lines,
        "",
        "From Python: tokenizer = vistok.load('sample'); codes = tokenizer.tokenize(images)",
    ])  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    """Hand the rest of the line to the module of the command, which is imported only then."""
    words = sys.argv[1:] if words is None else list(words)
    if words[:1] in (["-h"], ["--help"]):
        sys.stdout.write(usage() + "\n")
        return
    if words[:1] == ["--version"]:
        sys.stdout.write(f"{vistok.__version__}\n")
        return
    if not words or words[0] not in COMMANDS:
        sys.stderr.write((f"unknown command {words[0]!r}\n" if words else "") + usage() + "\n")
        raise SystemExit(2)
    openmp.share_cores()
    module, _, function = COMMANDS[words[0]][0].partition(":")
    if words[0] not in HYDRA:
        sys.argv[0] = f"python -m vistok {words[0]}"  # what argparse calls the program
    try:
        getattr(import_module(module), function or "main")(words[1:])
    except SystemExit as exit:
        if not isinstance(exit.code, str):
            raise
        sys.stderr.write(exit.code + "\n")
        raise SystemExit(2) from exit


if __name__ == "__main__":
    main()
