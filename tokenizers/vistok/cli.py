"""What ``train.py`` and ``eval.py`` do with their config: check, build, run, report."""

import hashlib
import math
import os
import sys
import time
from collections.abc import Callable
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


TOO_FEW = "a Fréchet distance needs at least 2 images; network=none leaves it out"


def run(action: Callable[..., Any], *arguments: Any) -> None:
    """Do ``train`` or ``evaluate``; what the user got wrong ends in one message, not a traceback.

    ``HYDRA_FULL_ERROR=1`` in the environment shows the traceback, as for Hydra's own errors.
    """
    from hydra.errors import InstantiationException

    from vistok.checkpoints import CheckpointNotWritten
    from vistok.weights import WeightsUnavailable

    try:
        action(*arguments)
    except (ValueError, FileNotFoundError, CheckpointNotWritten, WeightsUnavailable, InstantiationException) as error:
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

    from vistok import reports, runs
    from vistok.callbacks import Interrupted
    from vistok.health import CodebookHealth

    _check_hardware(config)
    health = CodebookHealth(on_collapse=config.on_collapse)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data, lit = build(config)
    checkpoint = runs.checkpoint_of(config)
    if checkpoint:
        runs.check_checkpoint(lit, checkpoint)
    elif config.init:
        runs.load_slim(lit, Path(config.init))
    folder = runs.folder_of(config, checkpoint)
    config = OmegaConf.merge(config, {"run_dir": str(folder)})
    trainer = _trainer(config, folder, health)
    if trainer.is_global_zero:
        reports.open_run(config, folder, lit, data)
    started = time.monotonic()
    try:
        trainer.fit(lit, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Interrupted as interrupted:
        if trainer.is_global_zero:
            reports.say_how_to_resume(folder, lit, overrides)
        sys.exit(interrupted.status)
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
    if config.network and data.num_test is not None and data.num_test < 2:
        raise ValueError(TOO_FEW)
    metrics, unavailable = _metrics(config, tokenizer)
    for name, reason in unavailable.items():
        console.print(f"[yellow]{name} is unavailable:[/] {reason}", highlight=False)

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, metrics = tokenizer.to(device), metrics.to(device)
    names: list[str] = []
    with torch.inference_mode():
        for batch in track(data.test_dataloader(), description="evaluating", console=console, transient=True):
            data.note(batch, data.num_test)
            names += batch.names
            if not batch.names:
                continue
            images = to_float(batch.images.to(device))
            reconstruction, quantized = tokenizer(images, config.rate)
            metrics.update(images, reconstruction, quantized.codes, quantized.keep)
    if not names or (config.network and len(names) < 2):
        raise ValueError(TOO_FEW if names else f"{data.about} has no image that can be read")
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
            "images": len(names),
            "unreadable": sorted(data.unreadable),
            "image_size": data.image_size,
            "sha256_of_names": hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest(),
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
    for name in ("updates", "batch_size", "accumulate", "val_every", "log_every", "save_every", "keep_checkpoints"):
        if config[name] is not None and config[name] < 1:
            raise ValueError(f"{name} must be at least 1, not {config[name]}")


def _check_hardware(config: DictConfig) -> None:
    import torch

    if config.trainer.accelerator == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise ValueError("trainer.accelerator=gpu, but torch sees no GPU; trainer=cpu runs without one")


def _refuse_missing(config: DictConfig) -> None:
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise ValueError(f"missing on the command line: {' '.join(f'{key}=...' for key in sorted(missing))}")


def _trainer(config: DictConfig, run: Path, health: "CodebookHealth") -> "pl.Trainer":
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import CSVLogger

    from vistok.callbacks import FiniteWatch, LastCheckpoint, Pictures, ProgressLine
    from vistok.checkpoints import SafeCheckpointIO
    from vistok.stability import StabilityWatch

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
            FiniteWatch(run),
            StabilityWatch(config.reference),
            Pictures(run),
            LastCheckpoint(run / "checkpoints" / "last.ckpt", config.save_every),
        ],
        plugins=[SafeCheckpointIO(config.keep_checkpoints)],
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
