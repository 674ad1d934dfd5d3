"""A run in brief, for ``python -m vistok inspect RUN``: settings, state, scores, and the next commands."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vistok.formats.tokenizer_paths import CONFIG, EXPORT
from vistok.metrics.units import _with_unit
from vistok.processes import locks
from vistok.terminal import duration
from vistok.training import checkpoint_io, next_commands
from vistok.training.run_facts import RunFacts, facts_of, value_at

LAST = Path("checkpoints") / "last.ckpt"
PICTURES = ("reconstructions.png", "codebook.png", "curves.png")


def report_lines(folder: Path) -> Iterator[tuple[str, str]]:
    """Labels and texts about the run in a folder."""
    run = facts_of(folder)
    yield "run", str(folder)
    yield "data", f"{run.data}, {value_at(run.config, 'data', 'image_size')} px"
    yield "tokenizer", _tokenizer(run.config)
    yield "training", _training(run.config)
    if run.arguments:
        yield "arguments", " ".join(run.arguments)
    yield from _state(run)
    if run.scores:
        yield (
            "held out",
            ", ".join(" ".join((name, *_with_unit(name, own))).strip() for name, own in run.scores.items()),
        )
    if pictures := [str(folder / name) for name in PICTURES if (folder / name).is_file()]:
        yield "pictures", "\n".join(pictures)
    if (folder / EXPORT / CONFIG).is_file():
        yield (
            "evaluate",
            next_commands.to_evaluate(folder, OmegaConf.create({"data": dict(run.config.get("data", {}))})),
        )
        yield "load", next_commands.to_load(folder / EXPORT)


def _tokenizer(config: Any) -> str:
    """Classes of the parts, and the size of the codebook."""
    parts = {name: value_at(config, "tokenizer", name) for name in ("encoder", "quantizer", "decoder")}
    names = [f"{name} {_class(own)}" for name, own in parts.items() if isinstance(own, dict)]
    model = (("codebook_size", "codewords"), ("latent_dim", "channels"))
    sizes = [f"{own:,} {unit}" for key, unit in model if type(own := value_at(config, "model", key)) is int]
    return ", ".join([*names, *sizes])


def _class(node: Any) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2]


def _training(config: Any) -> str:
    """Length, batch, optimizer, losses with their weights, and start of the discriminator."""
    updates, batch = value_at(config, "optim", "updates"), value_at(config, "data", "batch_size")
    weights = value_at(config, "loss", "loss_weights")
    parts = [f"{updates} updates of {batch} images", f"learning rate {value_at(config, 'optimizer', 'lr')}"]
    if isinstance(weights, dict):
        parts.append("losses " + ", ".join(f"{name} {weight}" for name, weight in weights.items()))
    if value_at(config, "loss", "adversary") is not None:
        parts.append(f"discriminator from update {value_at(config, 'optim', 'adversarial_start')}")
    return ", ".join([*parts, f"seed {value_at(config, 'run', 'seed')}"])


def _state(run: RunFacts) -> Iterator[tuple[str, str]]:
    """State of a run: in progress, finished, or interrupted, with the command that resumes it."""
    last = run.folder / LAST
    ended = (run.folder / "metrics.json").is_file() and run.updates >= run.planned
    if holder := locks.holder(run.folder / locks.NAME):
        yield "state", f"in use by {holder}, {run.updates:,} of {run.planned:,} updates"
        return
    if ended:
        time = "" if run.seconds is None else f" in {duration(run.seconds)}"
        yield "state", f"finished: {run.updates:,} updates{time}"
        return
    try:
        checkpoint = checkpoint_io.newest_valid(last, say=lambda text: None)
    except ValueError as error:
        yield "state", f"not finished: {error}"
        return
    if checkpoint is None:
        yield "state", f"not finished, and without a checkpoint: {run.updates:,} of {run.planned:,} updates"
        return
    saved = checkpoint_io.read(checkpoint)
    time = f" in {duration(saved['seconds'])}" if type(saved.get("seconds")) is float else ""
    yield "state", f"interrupted: {checkpoint} has {saved['updates']:,} of {run.planned:,} updates{time}"
    if run.arguments is None:
        yield "resume", f"the command that started it, with run.resume={checkpoint}"
    else:
        yield "resume", next_commands.to_resume(checkpoint, run.arguments)
