"""Lists runs with their scores on held-out images, the latest first.

A run is a folder with ``config.yaml``. Scores of a run that has not ended are those of its last validation.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vistok.commands.arguments import Parser
from vistok.commands.failures import guard
from vistok.files import atomic_write, encodable
from vistok.terminal import say
from vistok.training import runs_table
from vistok.training.run_facts import facts_of, run_folders

KINDS = (".html", ".csv")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments))


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("runs", __doc__)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", default="runs", help="folder of runs (default: runs)")
    parser.flag(
        "--out",
        required=False,
        action="append",
        default=[],
        help="file to write: .html is a page with scores and pictures of the runs, .csv has all scores; repeated for "
        "both",
    )
    return parser


def run(asked: argparse.Namespace) -> None:
    """Prints a row for each run."""
    folder = Path(asked.folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; runs are in runs/NAME/TIME, or where run.dir said")
    for path in map(Path, asked.out):
        if path.suffix not in KINDS:
            raise ValueError(f"--out={path} must end in one of {', '.join(KINDS)}")
    found = sorted((facts_of(own) for own in run_folders(folder)), key=lambda own: -own.began)
    console = Console()
    if not found:
        say(f"no runs in {folder}", console=console)
        return
    say(f"runs in {folder}", console=console)
    runs_table.print_table(console, folder, found)
    for path in map(Path, asked.out):
        if path.suffix == ".csv":
            text = runs_table.csv_text(folder, found)
        else:
            from vistok.training import next_commands

            text = runs_table.html_page(folder, found, next_commands.to_compare(found))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(encodable(text).encode())
        say(f"written to {path}", console=console)
