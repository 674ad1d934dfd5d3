"""What ``train.py`` and ``eval.py`` do with their config: check, build, run, report."""

import hashlib
import math
import os
import pickle
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from vistok.data import ImageDataModule
    from vistok.health import CodebookHealth
    from vistok.metrics import ReconstructionMetrics
    from vistok.tokenizer import Tokenizer
    from vistok.training import LitTokenizer

INTERRUPTED = 130  # exit status, as a shell reports Ctrl-C


def run(action: Callable[..., Any], *arguments: Any) -> None:
    """Do ``train`` or ``evaluate``; what the user got wrong ends in one message, not a traceback.

    ``HYDRA_FULL_ERROR=1`` in the environment shows the traceback, as for Hydra's own errors.
    """
    from hydra.errors import InstantiationException

    from vistok.weights import WeightsUnavailable

    try:
        action(*arguments)
    except (ValueError, FileNotFoundError, WeightsUnavailable, InstantiationException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"error: {_cause(error)}\n(HYDRA_FULL_ERROR=1 shows where)")


def _cause(error: BaseException) -> BaseException:
    """What a constructor raised, where Hydra's ``instantiate`` wrapped it."""
    from hydra.errors import InstantiationException

    return error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error


def train(config: DictConfig, overrides: list[str]) -> dict[str, float]:
    """Train, validate and export as ``configs/train.yaml`` says.

    Args:
        config: The composed config.
        overrides: The words of the command line, for the advice on resuming.

    Returns:
        The metrics of the last validation, by name.

    Raises:
        ValueError: The config does not make sense, or does not fit the data or the checkpoint: before any long work.
    """
    _check_config(config)
    import pytorch_lightning as pl

    from vistok import reports
    from vistok.callbacks import Interrupted
    from vistok.health import CodebookHealth

    _check_hardware(config)
    health = CodebookHealth(on_collapse=config.on_collapse)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data, lit = build(config)
    if config.ckpt:
        check_checkpoint(lit, Path(config.ckpt))
    folder = run_folder(config)
    config = OmegaConf.merge(config, {"run_dir": str(folder)})
    trainer = _trainer(config, folder, health)
    if trainer.is_global_zero:
        reports.open_run(config, folder, lit, data)
    started = time.monotonic()
    try:
        trainer.fit(lit, datamodule=data, ckpt_path=config.ckpt, weights_only=True)
    except Interrupted:
        if trainer.is_global_zero:
            reports.say_how_to_resume(folder, lit, overrides)
        sys.exit(INTERRUPTED)
    metrics = {
        name.removeprefix("val/"): value.item()
        for name, value in trainer.callback_metrics.items()
        if name.startswith("val/")
    }
    if trainer.is_global_zero:
        reports.close_run(folder, lit, data, metrics, time.monotonic() - started)
    return metrics


def build(config: DictConfig) -> tuple["ImageDataModule", "LitTokenizer"]:
    """The data and the module to train, from a config; wrong arguments raise ValueError."""
    from vistok.training import LitTokenizer

    data, tokenizer = instantiate(config.data), instantiate(config.tokenizer)
    if data.image_size % tokenizer.factor:
        raise ValueError(f"image_size={data.image_size} is not a multiple of the tokenizer's factor {tokenizer.factor}")
    loss = instantiate(config.loss)
    head_weights = {name: w for name, w in config.quantizer_weights.items() if name in tokenizer.quantizer.loss_names}
    loss["weights"] |= head_weights
    lit = LitTokenizer(
        tokenizer=tokenizer,
        **loss,
        optimizer=instantiate(config.optimizer),
        schedule=instantiate(config.schedule),
        ema_decay=config.ema_decay,
        clip=config.clip,
        accumulate=config.accumulate,
    )
    return data, lit


def instantiate(node: DictConfig) -> Any:
    """Hydra's ``instantiate``, with plain dicts and lists for arguments. For our own YAML only, never for a file."""
    import hydra.utils

    return hydra.utils.instantiate(node, _convert_="all")


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Score a tokenizer on a set of images as ``configs/eval.yaml`` says; prints a table and writes JSON.

    Returns:
        What the JSON holds.

    Raises:
        ValueError: The config does not make sense, or does not fit the tokenizer.
        FileNotFoundError: There is no tokenizer.
    """
    _refuse_missing(config)
    import torch
    from rich.console import Console
    from rich.progress import track

    from vistok import reports
    from vistok.export.hub import load
    from vistok.pixels import to_float
    from vistok.quantizers import DynamicQuantizer

    console = Console()
    output = Path(config.output)
    if output.exists():
        raise ValueError(f"output={output} exists already and is not overwritten")
    tokenizer = load(config.tokenizer)
    if config.rate is not None:
        head = tokenizer.quantizer
        if not isinstance(head, DynamicQuantizer) or head.grains != 2:
            raise ValueError(f"rate={config.rate} needs a dynamic head of two grains, not a {type(head).__name__}")
        if not 0 <= config.rate <= 1:
            raise ValueError(f"rate={config.rate} must be a share in [0, 1]")
    data = instantiate(config.data)
    if data.image_size % tokenizer.factor:
        raise ValueError(f"image_size={data.image_size} is not a multiple of the tokenizer's factor {tokenizer.factor}")
    if config.network and len(data.test) < 2:
        raise ValueError("a Fréchet distance needs at least 2 images; network=none leaves it out")
    metrics, unavailable = _metrics(config, tokenizer)
    for name, reason in unavailable.items():
        console.print(f"[yellow]{name} is unavailable:[/] {reason}", highlight=False)

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, metrics = tokenizer.to(device), metrics.to(device)
    with torch.inference_mode():
        for batch in track(data.test_dataloader(), description="evaluating", console=console, transient=True):
            images = to_float(batch.to(device))
            reconstruction, quantized = tokenizer(images, config.rate)
            metrics.update(images, reconstruction, quantized.codes, quantized.keep)
    values = {name: value.item() for name, value in metrics.compute().items()}
    tokens, sizes = values["tokens"] / values["images"], tokenizer.quantizer.codebook_sizes
    values["tokens_per_image"] = tokens * len(sizes)
    values["bits_per_image"] = tokens * sum(math.log2(size) for size in sizes)
    if isinstance(tokenizer.quantizer, DynamicQuantizer):
        values["bits_per_image"] += tokenizer.quantizer.grain_bits(quantized.codes[0, 0].numel())
    report = {
        "metrics": values,
        "unavailable": unavailable,
        "tokenizer": str(config.tokenizer),
        "data": {
            "source": data.about,
            "images": len(data.test),
            "image_size": data.image_size,
            "sha256_of_names": hashlib.sha256("\n".join(data.test.names()).encode()).hexdigest(),
        },
        "rate": config.rate,
        "dtype": "float32",
        "device": str(device),
        "versions": reports.versions(),
    }
    reports.write_json(report, output)
    console.print(f"{config.tokenizer} on {data.about}", highlight=False, soft_wrap=True)
    console.print(reports.metrics_table(values, unavailable))
    console.print(f"written to {output}", highlight=False)
    return report


def _metrics(config: DictConfig, tokenizer: "Tokenizer") -> tuple["ReconstructionMetrics", dict[str, str]]:
    """The metrics that can be had, and why the others cannot."""
    from hydra.errors import InstantiationException

    from vistok.metrics import ReconstructionMetrics
    from vistok.weights import WeightsUnavailable

    networks: dict[str, nn.Module | None] = {}
    unavailable = {}
    model = config.network.get("model") if config.network else None
    for part, metric in (("lpips", "lpips"), ("network", f"frechet_{model}" if model else "rfid")):
        try:
            networks[part] = instantiate(config[part]) if config[part] else None
        except InstantiationException as error:
            if not isinstance(_cause(error), WeightsUnavailable):
                raise
            unavailable[metric] = str(_cause(error))
    return ReconstructionMetrics(tokenizer.quantizer.codebook_sizes, tokenizer.factor, **networks), unavailable


def _check_config(config: DictConfig) -> None:
    """What can be seen to be wrong from the config alone."""
    _refuse_missing(config)
    if config.weights == "random" and not config.debug:
        raise ValueError("weights=random trains on meaningless losses: it is for trainer=debug only")
    if "16" in str(config.trainer.precision) and "bf16" not in str(config.trainer.precision):
        raise ValueError(f"trainer.precision={config.trainer.precision} is not supported: use bf16-mixed or 32-true")
    for name in ("updates", "batch_size", "accumulate", "val_every", "log_every"):
        if config[name] < 1:
            raise ValueError(f"{name} must be at least 1, not {config[name]}")


def _check_hardware(config: DictConfig) -> None:
    import torch

    if config.trainer.accelerator == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise ValueError("trainer.accelerator=gpu, but torch sees no GPU; trainer=cpu runs without one")


def _refuse_missing(config: DictConfig) -> None:
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise ValueError(f"missing on the command line: {' '.join(f'{key}=...' for key in sorted(missing))}")


def run_folder(config: DictConfig) -> Path:
    """The folder of this run: made by rank 0, which alone writes to it; never one that holds another run.

    A run that goes on from a checkpoint of its own folder stays there.
    """
    from pytorch_lightning.utilities import rank_zero_only

    checkpoint = Path(config.ckpt) if config.ckpt else None
    own = checkpoint.parent.parent if checkpoint and checkpoint.parent.name == "checkpoints" else None
    if config.run_dir is None and own:
        return own
    run = Path(config.run_dir or Path("runs") / config.name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if rank_zero_only.rank != 0 or (own and run.resolve() == own.resolve()):
        return run
    if config.run_dir is None:  # two runs may start in the same second
        first, n = run, 1
        while run.exists():
            n += 1
            run = first.with_name(f"{first.name}_{n}")
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise ValueError(f"run_dir={run} exists already and is not overwritten; continue it with ckpt=")
    run.mkdir(parents=True, exist_ok=True)
    return run


def check_checkpoint(lit: "LitTokenizer", path: Path) -> None:
    """Refuse a checkpoint that is not there, is done already, or does not fit: before any data is read.

    Raises:
        ValueError: The message names the keys and shapes that differ.
    """
    import torch

    if not path.is_file():
        raise ValueError(f"ckpt={path} is not a file")
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"ckpt={path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or not {"updates", "batches", "state_dict"} <= set(checkpoint):
        raise ValueError(f"ckpt={path} is not a checkpoint of a run of train.py")
    if checkpoint["updates"] >= lit.schedule.updates:
        raise ValueError(f"ckpt={path} has made all of its updates: {checkpoint['updates']}; raise updates= to go on")
    here = {key: tuple(value.shape) for key, value in lit.saved(lit.state_dict()).items()}
    there = {key: tuple(value.shape) for key, value in checkpoint["state_dict"].items()}
    differences = [
        f"  {key}: {there[key]} in the checkpoint, {here[key]} here"
        for key in here
        if key in there and here[key] != there[key]
    ]
    differences += [f"  {key}: only in the config's model, {here[key]}" for key in here if key not in there]
    differences += [f"  {key}: only in the checkpoint, {there[key]}" for key in there if key not in here]
    if differences:
        more = f"\n  and {len(differences) - 10} more" if len(differences) > 10 else ""
        raise ValueError(f"ckpt={path} does not fit the config:\n" + "\n".join(differences[:10]) + more)


def _trainer(config: DictConfig, run: Path, health: "CodebookHealth") -> "pl.Trainer":
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import CSVLogger

    from vistok.callbacks import LastCheckpoint, Pictures, ProgressLine

    _quiet_lightning()
    loggers = [CSVLogger(run, name="", version="", flush_logs_every_n_steps=1)]
    if config.logger:
        loggers.append(instantiate(config.logger))
    return pl.Trainer(
        **OmegaConf.to_container(config.trainer, resolve=True),
        logger=loggers,
        callbacks=[
            health,
            ProgressLine(),
            Pictures(run),
            LastCheckpoint(run / "checkpoints" / "last.ckpt"),
        ],
        max_epochs=-1,  # the module stops the trainer after its updates
        val_check_interval=config.val_every * config.accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=config.log_every * config.accumulate,
        num_sanity_val_steps=0,
        enable_checkpointing=False,  # LastCheckpoint counts updates, not optimizer steps
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # ours know their rank
    )


def _quiet_lightning() -> None:
    """Lightning's hints that do not apply: the loaders and the folder are as they should be."""
    import logging
    import warnings

    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Experiment logs directory.*",
        ".*LeafSpec.*",
        ".*in eval mode at the start of training.*",  # LPIPS is meant to be
    ):
        warnings.filterwarnings("ignore", message=message)
