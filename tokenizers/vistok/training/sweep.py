"""Sweeps, ``train.py -m``: the folder of each, names of its jobs, and the table and page at its end."""

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from vistok.files import atomic_write, encodable
from vistok.terminal import say
from vistok.training import next_commands, run_name, runs_table
from vistok.training.run_facts import facts_of, run_folders

DIR = "hydra.sweep.dir"
PAGE, TABLE = "sweep.html", "sweep.csv"


class JobFailed(RuntimeError):
    """The error of one job, after which the other jobs go on."""


@contextmanager
def summarized(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Runs a sweep in the block, then shows the scores of its runs, also of one that fails or is interrupted.

    Yields:
        The arguments, with the folder of the sweep and the keys that its jobs share.
    """
    folder = _given(arguments) or _new_folder(run_name.sweep_name(arguments))
    shared = json.dumps(run_name.shared_keys(arguments))
    added = [] if _given(arguments) else [f"{DIR}={json.dumps(str(folder))}"]
    try:
        yield [*arguments, *added, f"hydra.job.config.override_dirname.exclude_keys={shared}"]
    except SystemExit as ended:
        again = [word for word in arguments if not word.startswith(f"{DIR}=")]
        if not report(folder):
            if added:
                shutil.rmtree(folder, ignore_errors=True)  # it has no run
        elif ended.code:
            command = f"{next_commands.program('train')} {shlex.join([*again, f'{DIR}={folder}'])}"
            say(f"\nthe sweep has not ended. This goes on with the jobs that have not:\n  {command}", "yellow")
        raise
    report(folder)


def has_ended(config: DictConfig) -> bool:
    """True if the run of a job has been closed, after as many updates as it is to make."""
    folder = Path(config.run.dir)
    if not (folder / "metrics.json").is_file() or not (folder / "config.yaml").is_file():
        return False
    return facts_of(folder).updates >= config.optim.updates


def _given(arguments: Sequence[str]) -> Path | None:
    found = [word.partition("=")[2] for word in arguments if word.startswith(f"{DIR}=")]
    return Path(found[-1].strip("'\"")) if found else None


def _new_folder(name: str) -> Path:
    """A folder ``runs/NAME/TIME``, created by rank 0; not one of another sweep of the same second."""
    first = Path("runs") / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, n = first, 1
    while os.environ.get("RANK", "0") == "0":
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            n += 1
            folder = first.with_name(f"{first.name}_{n}")
        except OSError as error:
            raise ValueError(f"{DIR}={folder}: {error.strerror}") from error
    return folder


def report(folder: Path) -> bool:
    """Prints the table of the runs in a folder of a sweep, and writes it as CSV and as a page with pictures.

    Returns:
        False if there are none.
    """
    runs = [facts_of(own) for own in run_folders(folder)] if folder.is_dir() else []
    if not runs:
        return False
    runs.sort(key=lambda own: -own.scores.get("psnr", float("-inf")))
    command = next_commands.to_compare(runs)
    contents = {TABLE: runs_table.csv_text(folder, runs), PAGE: runs_table.html_page(folder, runs, command)}
    for name, text in contents.items():
        with atomic_write(folder / name) as file:
            file.write(encodable(text).encode())
    console = Console()
    say(f"\nruns in {folder}, best PSNR first", console=console)
    runs_table.print_table(console, folder, runs, settings=False)
    say(f"{folder / PAGE}\n          {folder / TABLE}", label="written   ", console=console)
    if command:
        say(command, label="compare   ", console=console)
    return True
