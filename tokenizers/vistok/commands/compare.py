"""Compares the scores of tokenizers from the files of any number of evaluations.

Prints the scores with 95 % intervals, then one sentence for each difference from the first tokenizer. Evaluations must
have a protocol in common. Differences need the same images.
"""

import argparse
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from rich import get_console

from vistok import files
from vistok.commands.arguments import Parser
from vistok.commands.failures import guard
from vistok.evaluation.comparison import compare
from vistok.evaluation.report import differences, score_table
from vistok.evaluation.report.comparison_page import comparison_page
from vistok.evaluation.report.rate_plot import known_metrics, rate_plot
from vistok.files import atomic_write, encodable
from vistok.plots.figures import figure_bytes
from vistok.terminal import say

WIDTH = 160  # characters of a line in a file or a pipe
KINDS = (".png", ".svg", ".html", ".json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("compare", __doc__)
    parser.add_argument("files", metavar="JSON", nargs="+", help="files of evaluations, each with its .npz beside it")
    parser.flag("--protocol", metavar="NAME", help="protocol to compare by (default: the first that all files have)")
    parser.flag(
        "--metric",
        action="append",
        metavar="NAME",
        help="metric of the picture, such as psnr; repeated for several (default: a Fréchet distance, LPIPS and PSNR)",
    )
    parser.flag(
        "--out",
        required=False,
        action="append",
        help="new file: .png or .svg is the rate-distortion picture, .html a page with it, .json all numbers; repeated "
        "for several (default: none, the table alone)",
    )
    return parser


def run(asked: argparse.Namespace) -> None:
    """Compares, writes and prints."""
    outputs = [Path(path) for path in asked.out or ()]
    for path in outputs:
        if path.suffix not in KINDS:
            raise ValueError(f"--out={path} must end in one of {', '.join(KINDS)}")
        if path.exists():
            raise ValueError(f"--out={path} exists already and is not overwritten")
    comparison = compare(asked.files, asked.protocol)
    kinds = {path.suffix for path in outputs}
    contents = dict(contents_of(kinds, comparison, asked.metric))
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(contents[path.suffix])
    console = get_console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(score_table.scores_table(comparison, differences.caption_of(comparison)))
    differences.say_all(comparison, console)
    if outputs:
        say(f"written to {', '.join(map(str, outputs))}", console=console)


def contents_of(kinds: Collection[str], comparison: dict, metrics: Sequence[str] | None) -> Iterator[tuple[str, bytes]]:
    """Contents of the output files of these ``KINDS``."""
    if ".json" in kinds:
        yield ".json", f"{files.json_text(comparison)}\n".encode()
    if drawn := set(kinds) - {".json"}:
        figure = rate_plot(comparison, metrics) if drawn != {".html"} or known_metrics(comparison) else None
        for kind in drawn - {".html"}:
            yield kind, figure_bytes(figure, kind.removeprefix("."))
        if ".html" in drawn:
            yield ".html", encodable(comparison_page(comparison, figure)).encode()
