"""What a run writes and prints about itself: at its beginning, at its end, and when it is interrupted."""

import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.table import Table
from rich.text import Text

from vistok import __version__, runs
from vistok.data import ImageDataModule, ShardDataModule
from vistok.export.hub import save
from vistok.files import whole
from vistok.terminal import say, visible
from vistok.training import LitTokenizer

Data = ImageDataModule | ShardDataModule


def open_run(config: DictConfig, run: Path, lit: LitTokenizer, data: Data) -> None:
    """Make the folder's first contents and say what is about to happen."""
    about = f"{data.about}: {data.sizes}"  # refuses data without images to train on
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, run / "config.yaml", resolve=True)
    head = lit.tokenizer.quantizer
    parts = {"encoder": lit.tokenizer.encoder, "quantizer": head, "decoder": lit.tokenizer.decoder}
    if lit.adversary:
        parts["adversary"] = lit.adversary
    sizes = ", ".join(f"{name} {sum(p.numel() for p in part.parameters()):,}" for name, part in parts.items())
    codewords = " + ".join(f"{size:,}" for size in head.codebook_sizes)
    say(str(run), label="run folder  ")
    say(about, label="data        ")
    say(sizes, label="parameters  ")
    factor = lit.tokenizer.factor
    say(f"{codewords} codewords of {head.dim} channels, one for each {factor} x {factor} pixels", label="codes       ")
    if lit.adversary and lit.adversary.start >= lit.schedule.updates:
        say(f"the discriminator starts at update {lit.adversary.start:,}, after the run's last", "yellow")


def close_run(run: Path, lit: LitTokenizer, data: Data, metrics: dict[str, float], seconds: float) -> None:
    """Export, write ``metrics.json``, and print what came out and what to do with it."""
    report = finite(
        {
            "metrics": metrics,
            "updates": lit.updates,
            "seconds": round(seconds, 1),
            "data": data.about,
            "versions": versions(),
        }
    )
    runs.save_slim(lit, run / runs.SLIM)
    try:
        save(lit.evaluated, run / "tokenizer", about=report)
    except ValueError as error:
        raise ValueError(
            f"{error}\nThe run could not be exported. All that it learned is kept in {run}; once that is mended, the "
            f"same command with run_dir={run} ckpt=auto exports and closes it"
        ) from error
    write_json(report, run / runs.METRICS)
    if lit.updates < lit.schedule.updates:
        say(f"stopped after {lit.updates:,} of {lit.schedule.updates:,} updates", "yellow")
    say(f"\nafter {lit.updates:,} updates and {seconds:.0f} s, on the held-out images:")
    get_console().print(metrics_table(metrics))
    exported = run / "tokenizer"
    say(f"{run / 'reconstructions.png'}\n          {run / 'codebook.png'}\n", label="\npictures  ")
    say(f"{program('eval')} tokenizer={exported} data=folder data.root=DIR", label="evaluate  ")
    say(f"python -c \"import vistok; print(vistok.load('{exported}').factor)\"", label="load      ")


def say_how_to_resume(run: Path, lit: LitTokenizer, overrides: list[str]) -> None:
    """Print the command that goes on with an interrupted run; ``overrides`` are the words it was started with."""
    again = [word for word in overrides if not word.startswith(("ckpt=", "run_dir="))]
    command = program("train") + " " + shlex.join([*again, f"ckpt={run / 'checkpoints' / 'last.ckpt'}"])
    say(f"\ninterrupted after {lit.updates:,} updates; everything is saved. To go on:\n  {command}")


def program(name: str) -> str:
    """How to call ``train`` or ``eval``, as this process was called: the repository's script, or the package."""
    called = Path(sys.argv[0])
    packaged = called.name == "vistok" or called.parts[-2:] == ("vistok", "__main__.py")
    return f"python -m vistok {name}" if packaged else f"python {name}.py"


def metrics_table(metrics: dict[str, float]) -> Table:
    """A rich table of metrics with their units."""
    table = Table(show_header=False)
    for name, value in metrics.items():
        table.add_row(name.replace("_", " "), *_with_unit(name, value))
    return table


def scores_table(report: dict[str, Any]) -> Table:
    """The scores of an evaluation, and below them what they are of.

    A column for each protocol and a section for each tokenizer; under a single protocol a column for each tokenizer.
    """
    data, versions, scores = report["data"], report["versions"], report["scores"]
    caption = (
        f"{data['images']:,} images of {data['image_size']} px, list {data['sha256_of_names'][:8]}, from "
        f"{data['source']}; {report['dtype']}, vistok {versions['vistok']}, torch {versions['torch']}"
    )
    table = Table(caption=Text(visible(caption)), caption_justify="left")
    single = len(report["protocols"]) == 1
    if single:
        table.add_column("{protocol}\n{hash}".format(**scores[0]), no_wrap=True)
        columns, sections = [Text(visible(score["tokenizer"])) for score in scores], {"": scores}
    else:
        table.add_column("", no_wrap=True)
        columns = [f"{name}\n{protocol['hash']}" for name, protocol in report["protocols"].items()]
        paths = [own["tokenizer"] for own in report["tokenizers"]]
        sections = {path: [score for score in scores if score["tokenizer"] == path] for path in paths}
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("", no_wrap=True)
    for path, section in sections.items():
        if path:
            table.add_section()
            table.add_row(Text(visible(path), "bold"))
        names = {name: None for score in section for name in score["metrics"]}  # in order, each once
        for name in [*names, *(own for own in report["unavailable"] if own not in names)]:
            shown = [cell(report, score, name) for score in section]
            table.add_row(
                name.replace("_", " "), *(text for text, _ in shown), max((unit for _, unit in shown), key=len)
            )
    return table


def cell(report: dict[str, Any], score: dict[str, Any], name: str) -> tuple[str, str]:
    """A score with its unit; nothing where the protocol does not have it."""
    if name in score["metrics"]:
        return _with_unit(name, score["metrics"][name])
    distances = {own for protocol in report["protocols"].values() for own in protocol["distances"]}
    asked = name not in distances or name in report["protocols"][score["protocol"]]["distances"]
    return ("unavailable" if asked and name in report["unavailable"] else "", "")


def _with_unit(name: str, value: float) -> tuple[str, str]:
    if name.startswith("psnr"):
        return f"{value:.2f}", "dB"
    if name.startswith("usage"):
        return f"{100 * value:.1f}", "% of codewords"
    if name.startswith("bits_per_pixel"):
        return f"{value:.4g}", "bits"
    if name.startswith("bits"):
        return f"{value:,.0f}", "bits"
    if float(value).is_integer():
        return f"{value:,.0f}", ""
    return f"{value:.4g}", ""


def versions() -> dict[str, str]:
    """What a number depends on besides data and weights."""
    return {"vistok": __version__, "torch": torch.__version__, "python": platform.python_version()}


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write JSON that any reader accepts: a number that is not finite becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(finite(content), indent=2, allow_nan=False) + "\n"
    with whole(path) as file:
        file.write(text.encode())


def finite(value: Any) -> Any:
    """The same content with None for every number that is not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and value - value != 0 else value
