"""``python -m vistok VERB ...``, or ``vistok VERB ...``: all commands of an installed vistok."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

import vistok
from vistok.processes import openmp

COMMANDS = {  # the verb: its module, and what it does
    "train": ("vistok.commands.train", "train a tokenizer"),
    "eval": ("vistok.commands.eval", "score tokenizers on images"),
    "compare": ("vistok.commands.compare", "compare the scores of tokenizers, with intervals and a picture"),
    "runs": ("vistok.commands.runs", "list runs with their scores"),
    "env": ("vistok.commands.env", "print versions and hardware, for a bug report"),
    "estimate": ("vistok.commands.estimate", "print the parameters, FLOPs and memory of a training run"),
    "export": ("vistok.commands.export", "write a tokenizer for diffusers, Janus, published families, ONNX or torch"),
    "inspect": ("vistok.commands.inspect", "print the contents of a checkpoint without running code in it"),
    "reconstruct": ("vistok.commands.reconstruct", "write an image as a tokenizer reconstructs it"),
    "tokenize": ("vistok.commands.tokenize", "write the tokens of images to disk, for a generator"),
    "data shards": ("vistok.commands.data_shards", "write images as tar shards, for data=shards"),
    "data thresholds": ("vistok.commands.data_thresholds", "measure the entropies that an entropy router needs"),
    "tokens check": ("vistok.commands.tokens_check", "check the files of tokens, and decode some images"),
    "tokens export": ("vistok.commands.tokens_export", "write tokens in another format"),
    "probe": ("vistok.commands.probe", "measure how learnable tokens are, with a small generator"),
    "codec reduce": ("vistok.commands.codec_reduce", "cluster the codewords of a tokenizer: fewer bits, same networks"),
    "codec build": ("vistok.commands.codec_build", "build a codec from a tokenizer and its reduced codebooks"),
    "codec train-concealment": (
        "vistok.commands.codec_train_concealment",
        "train the model that predicts the lost codes of a damaged file",
    ),
    "codec compress": ("vistok.commands.codec_compress", "compress an image to a very small file"),
    "codec decompress": ("vistok.commands.codec_decompress", "decompress a file of codec compress to an image"),
}
HYDRA = ("train", "eval", "estimate")  # these read sys.argv themselves
NOUNS = tuple(dict.fromkeys(name.partition(" ")[0] for name in COMMANDS if " " in name))
RENAMED = {  # the commands of version 0.1
    "convert": "data shards",
    "thresholds": "data thresholds",
    "reduce": "codec reduce",
    "conceal": "codec train-concealment",
    "compress": "codec compress",
    "decompress": "codec decompress",
}


def usage(noun: str = "") -> str:
    """The help text, of all verbs or of those of one noun."""
    width = max(map(len, COMMANDS)) + 2
    lines = [
        f"  {name:{width}}{about}" for name, (_, about) in COMMANDS.items() if name.startswith(f"{noun} ".lstrip())
    ]
    return "\n".join([
        f"vistok {vistok.__version__}: train, evaluate and export discrete visual tokenizers",
        "",
        f"usage: python -m vistok {noun or 'VERB'} ...    (--help after a verb lists its arguments)",
        "",
        *lines,
        "",
        "train, eval and estimate take group=choice and key=value, as configs/train.yaml and configs/eval.yaml have",
        "them. The other verbs take flags, the same in all of them: --images is a path to images, --out the file or",
        "folder to write. The one argument without a flag is what the verb works on.",
        "",
        "From Python: tokenizer = vistok.load('sample'); codes = tokenizer.tokenize(images)",
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Hands the arguments after the verb to the verb's module, which is imported only then."""
    from vistok.commands.failures import output_may_be_closed

    with output_may_be_closed():
        _call(sys.argv[1:] if arguments is None else list(arguments))


def _call(arguments: list[str]) -> None:
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help") or (first in NOUNS and arguments[1:2] in (["-h"], ["--help"])):
        sys.stdout.write(usage(first if first in NOUNS else "") + "\n")
        return
    if first == "--version":
        sys.stdout.write(f"{vistok.__version__}\n")
        return
    if not arguments:
        sys.stderr.write(usage() + "\n")
        raise SystemExit(2)
    name = first if first not in NOUNS else " ".join(arguments[:2])
    if name not in COMMANDS:
        _refuse(name)
    openmp.share_cores()
    module = import_module(COMMANDS[name][0])
    rest = arguments[len(name.split(" ")) :]
    if name not in HYDRA:
        sys.argv[0] = f"python -m vistok {name}"  # what argparse calls the program
    try:
        module.main(rest)
    except SystemExit as exit:
        if not isinstance(exit.code, str):
            raise
        sys.stderr.write(exit.code + "\n")
        raise SystemExit(2) from exit


def _refuse(name: str) -> NoReturn:
    """Ends the process with one line for an unknown command."""
    from vistok.terminal import lines

    noun = name.partition(" ")[0]
    found = get_close_matches(name, COMMANDS, n=1)
    if name in RENAMED:
        message = f"{name} is now: python -m vistok {RENAMED[name]}"
    elif noun in NOUNS:
        verbs = ", ".join(known.partition(" ")[2] for known in COMMANDS if known.startswith(f"{noun} "))
        message = f"{noun} takes one of the verbs {verbs}: python -m vistok {noun} --help"
        if noun == "codec":
            message += "; making a codec is now: python -m vistok codec build"
    else:
        message = f"there is no command {name!r}" + (f"; did you mean {found[0]}?" if found else "")
        message += "; python -m vistok --help lists all"
    sys.stderr.write(lines(f"error: {message}") + "\n")
    raise SystemExit(2)


if __name__ == "__main__":
    main()
