"""Lists runs with their scores on held-out images, the latest first.

A run is a folder with ``config.yaml``. Scores of a run that has not ended are those of its last validation.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vistok.commands.arguments import Parser
from vistok.commands.failures import guard
from vistok.terminal import say, visible
from vistok.training.callbacks.metrics_rows import is_validation, read_rows
from vistok.untrusted.bounded_json import read_object

DEPTH = 4  # folders below the given one in which runs are looked for
MOST_BYTES = 2**24  # largest file of a run that is read
SCORES = {"psnr": ("PSNR", 1, 2), "ssim": ("SSIM", 1, 3), "usage": ("used, %", 100, 1)}  # label, factor, digits


class RunFacts(NamedTuple):
    """Facts about a run."""

    folder: Path
    began: float  # seconds since 1970
    data: str
    settings: str
    updates: int
    planned: int
    scores: Mapping[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments))


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("runs", __doc__)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", default="runs", help="folder of runs (default: runs)")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Prints a row for each run."""
    folder = Path(asked.folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; runs are in runs/NAME/TIME, or where run.dir said")
    found = sorted((facts_of(own) for own in run_folders(folder)), key=lambda own: -own.began)
    console = Console()
    if not found:
        say(f"no runs in {folder}", console=console)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("run", "data", "tokenizer", "updates", *(label for label, _, _ in SCORES.values())):
        table.add_column(name, overflow="fold")
    for own in found:
        ended = own.updates >= own.planned
        updates = f"{own.updates:,}" if ended else f"{own.updates:,} of {own.planned:,}"
        scores = [
            f"{own.scores[name] * factor:.{digits}f}" if name in own.scores else ""
            for name, (_, factor, digits) in SCORES.items()
        ]
        where = own.folder.relative_to(folder) if own.folder != folder else own.folder
        table.add_row(visible(str(where)), visible(own.data), visible(own.settings), updates, *scores)
    say(f"runs in {folder}", console=console)
    console.print(table)


def run_folders(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Folders of runs in a folder, or the folder itself."""
    if (folder / "config.yaml").is_file():
        yield folder
    elif depth:
        for below in sorted(own for own in folder.iterdir() if own.is_dir() and not own.is_symlink()):
            yield from run_folders(below, depth - 1)


def facts_of(folder: Path) -> RunFacts:
    """Facts about a run, from its files; what is missing or damaged is empty."""
    config = _config(folder / "config.yaml")
    model, data, optim = (_at(config, name) for name in ("model", "data", "optim"))
    updates, scores = _progress(folder)
    model, data, optim = (own if isinstance(own, dict) else {} for own in (model, data, optim))
    head = str(_at(config, "tokenizer", "quantizer", "_target_") or "").rpartition(".")[2]
    size, source = data.get("image_size"), data.get("root") or data.get("urls") or ""
    kind = str(data.get("_target_") or "").rpartition(".")[2]
    return RunFacts(
        folder,
        (folder / "config.yaml").stat().st_mtime,
        f"{kind} {source if type(source) is str else ', '.join(map(str, source))}".strip(),
        f"{head} {model.get('codebook_size')}, {size} px",
        updates,
        planned if type(planned := optim.get("updates")) is int else updates,
        scores,
    )


def _progress(folder: Path) -> tuple[int, dict[str, float]]:
    """Updates made, and scores of the last validation."""
    if (folder / "metrics.json").is_file():
        try:
            report = read_object(folder / "metrics.json", MOST_BYTES)
            scores = report["metrics"]
            numbers = {name: float(scores[name]) for name in SCORES if type(scores.get(name)) in (int, float)}
            return int(report["updates"]), numbers
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
    file = folder / "metrics.csv"
    rows = read_rows(file) if file.is_file() and file.stat().st_size <= MOST_BYTES else None
    validations = [row for row in rows or () if is_validation(row)]
    scores = {}
    for name in SCORES:
        if validations and validations[-1].get(f"val/{name}"):
            scores[name] = float(validations[-1][f"val/{name}"])
    updates = [float(row["updates"]) for row in rows or () if row.get("updates")]
    return int(max(updates, default=0)), scores


def _config(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_bytes()[:MOST_BYTES])
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _at(config: Any, *path: str) -> Any:
    """Value in nested mappings; None where a name is missing or names no mapping on the way."""
    for name in path:
        config = config.get(name) if isinstance(config, dict) else None
    return config
