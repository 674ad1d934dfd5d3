"""``python -m vistok COMMAND ...``: one command line for what is neither training nor evaluation."""

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {  # name: module with main(words), what it does
    "inspect": ("vistok.export.inspect", "say what is in a checkpoint: keys, tensors, what was not read"),
    "export": ("vistok.export.command", "write a tokenizer for diffusers, LlamaGen, transformers, ONNX or torch"),
    "convert": ("vistok.convert", "write images as tar shards"),
    "reduce": ("vistok.codec.reduce", "cluster a tokenizer's codewords: fewer bits from the same networks"),
    "codec": ("vistok.codec.build", "make a codec of a tokenizer and its reduced codebooks"),
    "conceal": ("vistok.codec.conceal", "train the model that guesses what a damaged file has lost"),
    "compress": ("vistok.codec.compress", "write an image as a file of very few bytes"),
    "decompress": ("vistok.codec.decompress", "write the image in such a file"),
    "tokenize": ("vistok.tokens.command", "write the tokens of images, for a generator"),
    "tokens": ("vistok.tokens.manage", "check tokens, decode some to look at, write them for others"),
    "thresholds": ("vistok.thresholds", "measure the entropies an entropy router needs"),
}


def main(words: Sequence[str] | None = None) -> None:
    """Hand the rest of the line to the module of the command, which is imported only then."""
    words = sys.argv[1:] if words is None else list(words)
    usage = "usage: python -m vistok COMMAND ...\n\n" + "\n".join(
        f"  {name:12}{about}" for name, (_, about) in COMMANDS.items()
    )
    if words[:1] in (["-h"], ["--help"]):
        sys.stdout.write(usage + "\n")
        return
    if not words or words[0] not in COMMANDS:
        sys.stderr.write((f"unknown command {words[0]!r}\n" if words else "") + usage + "\n")
        raise SystemExit(2)
    sys.argv[0] = f"python -m vistok {words[0]}"  # what argparse calls the program
    try:
        import_module(COMMANDS[words[0]][0]).main(words[1:])
    except SystemExit as exit:
        if not isinstance(exit.code, str):
            raise
        sys.stderr.write(exit.code + "\n")
        raise SystemExit(2) from exit


if __name__ == "__main__":
    main()
