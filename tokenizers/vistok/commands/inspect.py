"""Prints the contents of a checkpoint without running code in it; of a run its settings, state and scores."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from vistok.commands.arguments import Parser, at_least
from vistok.commands.failures import guard
from vistok.formats import native
from vistok.formats.inspection import conclusions, licence, summary
from vistok.formats.tokenizer_paths import CONFIG, EXPORT, find
from vistok.formats.weight_files import read_weights
from vistok.terminal import say, visible
from vistok.untrusted.bounded_json import short
from vistok.untrusted.safe_pickle import MAX_NAME, Stub
from vistok.untrusted.torch_files import Contents

WIDTH = 12  # characters of a label of a run
MAX_LENGTH = 80  # characters of a value or of a list of names


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def run(asked: argparse.Namespace) -> None:
    """Reads the file or folder and prints its contents."""
    folder = Path(asked.file)
    if (folder / "config.yaml").is_file():
        from vistok.training.run_report import report_lines

        for label, text in report_lines(folder):
            indented = text.replace("\n", "\n" + " " * WIDTH)
            say(indented, label=f"{label:<{WIDTH}}", console=Console())
        if not (folder / EXPORT / CONFIG).is_file():
            return
    found = find(asked.file)
    if found.config is None:
        say(summary(native.load(found.path)), console=Console())
        return
    contents = read_weights(found.path)
    lines = [line for line in conclusions(contents.tree, found.config) if line]
    terms = licence(found.path)
    show(str(found.path), contents, asked.depth, [*lines, f"licence: {terms or 'its file and its folder state none'}"])


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("inspect", __doc__)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="run folder, or a checkpoint or its folder: .ckpt, .pt, .pth, .bin or .safetensors",
    )
    parser.flag("--depth", type=at_least(1), metavar="N", default=2, help="parts of a key by which tensors are grouped")
    return parser


def show(file: str, contents: Contents, depth: int, lines: Sequence[str]) -> None:
    """Prints the lines, the top of the tree, the tensors by the first ``depth`` parts of their keys, and the stubs."""
    console = Console()
    tree = contents.tree if type(contents.tree) is dict else {"": contents.tree}
    tensors = list(tensors_in(tree))
    say(f"{file}: {len(tensors):,} tensors, {values(tensor for _, tensor in tensors):,} values", console=console)
    for line in lines:
        say(printable(line), console=console)
    if not all(isinstance(value, Tensor) for value in tree.values()):
        table = Table("key", "holds")
        for key, value in tree.items():
            table.add_row(Text(printable(str(key))), Text(described(value)))
        console.print(table)
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in tensors:
        groups.setdefault(".".join(name.split(".")[:depth]), []).append(tensor)
    table = Table("tensors", "count", "values", "dtypes", "largest")
    for prefix, group in groups.items():
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in group})
        largest = max(group, key=lambda tensor: tensor.numel())
        row = (prefix, f"{len(group):,}", f"{values(group):,}", ", ".join(dtypes), str(tuple(largest.shape)))
        table.add_row(*(Text(printable(part)) for part in row))
    console.print(table)
    if contents.stubs:
        names = ", ".join(printable(name) for name in contents.stubs)
        say(f"not read, objects of: {names}", console=console)


def tensors_in(tree: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor with the path to it, joined by dots."""
    if isinstance(tree, Tensor):
        yield prefix, tree
    elif type(tree) in (dict, list, tuple):
        for key, value in tree.items() if type(tree) is dict else enumerate(tree):
            name = (key if type(key) is str else short(key))[:MAX_NAME]
            yield from tensors_in(value, f"{prefix}.{name}" if prefix else name)


def values(tensors: Any) -> int:
    return sum(tensor.numel() for tensor in tensors)


def described(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if type(value) in (dict, list, tuple):
        return f"{type(value).__name__} of {len(value):,}, {sum(1 for _ in tensors_in(value)):,} tensors"
    if isinstance(value, Stub):
        return f"not read: {printable(value.name)}"
    return printable(repr(value[: 4 * MAX_LENGTH] if isinstance(value, str | bytes) else value))


def printable(text: str) -> str:
    """Text of a file, not too long."""
    text = visible(text[: 4 * MAX_LENGTH])
    return text if len(text) <= 4 * MAX_LENGTH else text[: 4 * MAX_LENGTH] + "..."
