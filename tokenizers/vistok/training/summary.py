"""Messages and files about a run at its start, its end, and an interruption."""

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.table import Table

from vistok.data import split_record
from vistok.data.shards import Data
from vistok.files import atomic_write, finite, write_json
from vistok.formats.native import save
from vistok.formats.tokenizer_paths import EXPORT, SLIM
from vistok.metrics.units import _with_unit
from vistok.structure import WeightCount
from vistok.terminal import say
from vistok.training import next_commands, run_folder, slim_checkpoint
from vistok.training.module import LitTokenizer
from vistok.training.run_facts import ARGUMENTS
from vistok.versions import versions


def open_run(config: DictConfig, run: Path, lit: LitTokenizer, data: Data, overrides: Sequence[str] = ()) -> None:
    """Creates the first contents of the folder and prints what the run will do."""
    about = f"{data.about}: {data.sizes}"  # refuses data without images to train on
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    with atomic_write(run / "config.yaml") as file:
        file.write(f"{ARGUMENTS}{json.dumps(list(overrides))}\n{OmegaConf.to_yaml(config, resolve=True)}".encode())
    split_record.write(run, data)
    head = lit.tokenizer.quantizer
    parts = {"encoder": lit.tokenizer.encoder, "quantizer": head, "decoder": lit.tokenizer.decoder}
    if lit.adversary:
        parts["adversary"] = lit.adversary
    counts = {name: WeightCount.of(part) for name, part in parts.items()}
    buffers = {name: f" (+ {count.buffers:,} in buffers)" if count.buffers else "" for name, count in counts.items()}
    sizes = ", ".join(f"{name} {count.parameters:,}{buffers[name]}" for name, count in counts.items())
    codewords = " + ".join(f"{size:,}" for size in head.codebook_sizes)
    say(str(run), label="run folder  ")
    say(about, label="data        ")
    for note in data.notes:
        say(note, "yellow")
    say(sizes, label="parameters  ")
    factor, tokens = lit.tokenizer.factor, lit.tokenizer.num_tokens
    where = f"one for each {factor} x {factor} pixels" if tokens is None else f"{tokens} for each image"
    say(f"{codewords} codewords of {head.dim} channels, {where}", label="codes       ")
    if lit.adversary and lit.adversary.start >= lit.schedule.updates:
        say(f"the discriminator starts at update {lit.adversary.start:,}, after the run's last", "yellow")


def close_run(
    config: DictConfig, run: Path, lit: LitTokenizer, data: Data, metrics: dict[str, float], seconds: float
) -> None:
    """Exports the tokenizer, writes ``metrics.json``, and prints the results and next commands."""
    report = finite(
        {
            "metrics": metrics,
            "updates": lit.updates,
            "seconds": round(seconds, 1),
            "data": data.about,
            "versions": versions(),
        }
    )
    slim_checkpoint.save_slim(lit, run / SLIM)
    try:
        save(lit.evaluated, run / EXPORT, about=report)
    except ValueError as error:
        raise ValueError(
            f"{error}\nThe run could not be exported. Its weights are kept in {run}; once the problem is solved, the "
            f"same command with run.dir={run} run.resume=auto exports and closes it"
        ) from error
    write_json(report, run / run_folder.METRICS)
    if lit.updates < lit.schedule.updates:
        say(f"stopped after {lit.updates:,} of {lit.schedule.updates:,} updates", "yellow")
    say(f"\nafter {lit.updates:,} update{'s' * (lit.updates != 1)} and {seconds:.0f} s, on the held-out images:")
    get_console().print(metrics_table(metrics))
    paths = [run / name for name in ("reconstructions.png", "codebook.png", "curves.png")]
    pictures = [str(path) for path in paths if path.is_file()]
    say("\n          ".join(pictures) + "\n", label="\npictures  ")
    say(next_commands.to_evaluate(run, config), label="evaluate  ")
    say(next_commands.to_load(run / EXPORT), label="load      ")


def print_resume_command(run: Path, lit: LitTokenizer, overrides: list[str]) -> None:
    """Prints the command that resumes an interrupted run; ``overrides`` are the arguments that started it."""
    command = next_commands.to_resume(run / "checkpoints" / "last.ckpt", overrides)
    say(f"\ninterrupted after {lit.updates:,} updates; everything is saved. To resume:\n  {command}")


def metrics_table(metrics: dict[str, float]) -> Table:
    """Rich table of metrics with their units."""
    table = Table(show_header=False)
    for name, value in metrics.items():
        table.add_row(name.replace("_", " "), *_with_unit(name, value))
    return table
