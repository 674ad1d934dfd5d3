"""Training run from a config: check, build, train, export."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf

from vistok.configuration import (
    check,
    check_image_size,
    instantiate,
    loss_weights,
    random_weights,
    refuse_below,
    refuse_missing,
)

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from lightning_fabric.plugins.environments import ClusterEnvironment

    from vistok.data import ImageDataModule
    from vistok.training.callbacks.codebook_health import CodebookHealth
    from vistok.training.module import LitTokenizer


def train(config: DictConfig, overrides: list[str]) -> dict[str, float]:
    """Trains, validates and exports as ``configs/train.yaml`` says.

    Args:
        config: The composed config.
        overrides: Arguments of the command line, for the advice on resuming.

    Returns:
        Metrics of the last validation, by name.

    Raises:
        ValueError: The config is inconsistent, or a checkpoint, data or hardware does not fit it.
    """
    _check_config(config)
    if config.gpu_memory is not None:
        raise ValueError(f"gpu_memory={config.gpu_memory} is for python -m vistok estimate, which trains nothing")
    import pytorch_lightning as pl

    from vistok import speed
    from vistok.distributed import launchers
    from vistok.formats import native
    from vistok.training import run_folder, slim_checkpoint
    from vistok.training.callbacks.codebook_health import CodebookHealth

    _check_hardware(config)
    environment = launchers.environment(config.trainer.devices, config.trainer.num_nodes)
    health = CodebookHealth(on_collapse=config.on_collapse)
    with ExitStack() as lock:
        existing = run_folder.existing_folder(config)
        if existing:  # before anything is read that another run may be writing
            lock.enter_context(run_folder.locked(existing, config.take_over))
        pl.seed_everything(config.seed, workers=True, verbose=False)
        data, lit = build(config)
        native.check(lit.tokenizer)
        on_cpu = config.trainer.accelerator == "cpu"
        speed.prepare(
            *lit.networks,
            channels_last=config.speed.channels_last and on_cpu,
            keep_pages=config.speed.keep_pages and on_cpu,
            compile=config.speed.compile,
        )
        checkpoint = run_folder.checkpoint_of(config)
        if checkpoint:
            slim_checkpoint.check_checkpoint(lit, checkpoint)
        elif config.init:
            slim_checkpoint.load_slim(lit, Path(config.init), config.family, config.family_config)
        _ = data.sizes  # refuses data without images to train on
        folder, new = run_folder.folder_of(config, checkpoint)
        with run_folder.removed_on_error(folder, new):
            if existing is None:
                lock.enter_context(run_folder.locked(folder, config.take_over))
            config = OmegaConf.merge(config, {"run_dir": str(folder)})
            try:
                trainer = _trainer(config, folder, health, environment)
            except TypeError as error:
                raise ValueError(f"trainer: {error}") from error
            _open_loggers(trainer)
        return _fit(config, overrides, folder, trainer, data, lit, checkpoint)


def _fit(
    config: DictConfig,
    overrides: list[str],
    folder: Path,
    trainer: "pl.Trainer",
    data: "ImageDataModule",
    lit: "LitTokenizer",
    checkpoint: Path | None,
) -> dict[str, float]:
    """Trains from ``checkpoint``, and writes the files of a finished run into the folder."""
    from vistok.distributed import launchers
    from vistok.processes.signals import Interrupted
    from vistok.training import fsdp, summary

    if trainer.is_global_zero:
        summary.open_run(config, folder, lit, data)
    started = time.monotonic()
    try:
        trainer.fit(lit, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Interrupted as interrupted:
        if trainer.is_global_zero:
            summary.print_resume_command(folder, lit, overrides)
        launchers.hand_on(interrupted.number)
        sys.exit(interrupted.status)
    if lit.device_mesh is not None:
        lit.tokenizer = fsdp.gathered(lit.tokenizer, lambda: instantiate(config.tokenizer))
    metrics = {
        name.removeprefix("val/"): value.item()
        for name, value in trainer.callback_metrics.items()
        if name.startswith("val/")
    }
    if trainer.is_global_zero:
        summary.close_run(folder, lit, data, metrics, time.monotonic() - started)
    return metrics


def job_of_sweep(config: DictConfig, folder: str) -> DictConfig:
    """Config of one job of ``python train.py -m``: its run has its own folder, and resumes there if requeued.

    Args:
        config: The composed config.
        folder: Folder of the job in the folder of the sweep.
    """
    return OmegaConf.merge(config, {"run_dir": config.run_dir or folder, "ckpt": config.ckpt or "auto"})


def build(config: DictConfig) -> tuple["ImageDataModule", "LitTokenizer"]:
    """Data and module to train, from a config; invalid arguments raise ``ValueError``."""
    data, lit = instantiate(config.data), build_module(config)
    check_image_size(data.image_size, lit.tokenizer)
    return data, lit


def build_module(config: DictConfig) -> "LitTokenizer":
    """Module to train, without data."""
    from vistok.training.freezing import leave_codebooks
    from vistok.training.module import LitTokenizer

    tokenizer, loss = instantiate(config.tokenizer), instantiate(config.loss)
    if config.trainable == "codebook":
        leave_codebooks(tokenizer, loss.get("adversary"))
    weights = loss_weights(config.quantizer)
    loss["weights"] |= {name: weights[name] for name in tokenizer.quantizer.loss_names if name in weights}
    for name, weight in tokenizer.named_parameters():
        if not weight.numel():
            raise ValueError(f"tokenizer.{name} would have the shape {tuple(weight.shape)}: a number of channels is 0")
    return LitTokenizer(
        tokenizer=tokenizer,
        **loss,
        optimizer=optimizer_of(config),
        schedule=instantiate(config.schedule),
        ema_decay=config.ema_decay,
        clip=config.clip,
        accumulate=config.accumulate,
    )


def optimizer_of(config: DictConfig) -> Callable[..., Any]:
    """Function from parameters to an optimizer; its arguments are tried on one parameter."""
    import torch

    try:
        make = instantiate(config.optimizer)
        make([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer: {error}") from error
    return make


def estimate(config: DictConfig) -> None:
    """Prints a run's requirements, and the batch that fits ``gpu_memory`` GiB; needs no data, weights or GPU.

    Raises:
        ValueError: The config is inconsistent.
    """
    memory = config.gpu_memory
    if memory is not None and (isinstance(memory, bool | str) or not memory > 0):
        raise ValueError(f"gpu_memory is the memory of a GPU in GiB, above 0, not {memory!r}")
    _check_config(OmegaConf.merge(config, {"data": None}))
    from vistok.training import cost

    config = OmegaConf.merge(config, {"weights": "random"})  # shapes are all that matters, so nothing is downloaded
    gpu, precision = config.trainer.accelerator != "cpu", config.trainer.precision
    ddp = str(config.trainer.strategy).startswith("ddp")

    def build() -> "LitTokenizer":
        lit = build_module(config)
        check_image_size(config.image_size, lit.tokenizer)
        return lit

    estimated = cost.estimate(build, config.image_size, config.batch_size, gpu, precision, ddp)
    about = f"{config.name}: {config.image_size} pixels, {precision} on {'a GPU' if gpu else 'the CPU'}"
    cost.show(estimated, None if memory is None else memory * cost.GIB, about)


# What the keys are that are read here, beside those that are handed on to a _target_.
KEYS = {
    "name": str | int | float,
    "trainable": str,
    "weights": str,
    "family": str | None,
    "family_config": dict | None,
    "on_collapse": Literal["restart", "reinitialise"] | None,
    **dict.fromkeys(("run_dir", "ckpt", "init", "reference"), str | None),
    **dict.fromkeys(("debug", "take_over"), bool),
    **dict.fromkeys(("seed", "image_size", "batch_size", "accumulate", "updates"), int),
    **dict.fromkeys(("val_every", "log_every", "keep_checkpoints", "adversarial_start"), int),
    **dict.fromkeys(("latent_dim", "codebook_size"), int),
    "save_every": int | None,
    **dict.fromkeys(("ema_decay", "clip"), float | None),
}
GIVEN_TO = {
    "trainer": "pytorch_lightning.Trainer",
    "loss": "vistok.training.module.LitTokenizer",
    "speed": "vistok.speed.prepare",
    "augmentation": "vistok.data.folder",
}
COUNTS = (
    "updates",
    "batch_size",
    "accumulate",
    "val_every",
    "log_every",
    "save_every",
    "keep_checkpoints",
    "image_size",
    "latent_dim",
)


def _check_config(config: DictConfig) -> None:
    """Refuses errors that are visible in the config alone."""
    refuse_missing(config)
    check(OmegaConf.merge(config, {"run_dir": config.run_dir or "runs"}), KEYS, GIVEN_TO)
    refuse_below(config, 1, COUNTS)
    refuse_below(config, 2, ("codebook_size",))
    refuse_below(config, 0, ("seed",))
    for name in () if config.debug else random_weights({"weights": config.weights, "loss": config.loss}):
        raise ValueError(f"{name}=random trains on meaningless losses: it is for trainer=debug only")
    if "16" in str(config.trainer.precision) and "bf16" not in str(config.trainer.precision):
        raise ValueError(
            f"trainer.precision={config.trainer.precision} is not supported: float16 ends at 65,504 and would need "
            "scaled gradients, and on a CPU torch's float16 is far slower than float32; use speed=fast (bf16-mixed) "
            "or speed=exact (32-true)"
        )
    if config.trainable not in ("all", "codebook"):
        raise ValueError(f"trainable must be all or codebook, not {config.trainable!r}")
    if config.trainable == "codebook" and not (config.init or config.ckpt):
        raise ValueError("trainable=codebook needs trained networks around the codebook: give init=")
    if config.ema_decay is not None and "ShardedStrategy" in str(config.trainer.strategy):
        raise ValueError(
            f"ema_decay={config.ema_decay} has no place with trainer=fsdp: weights in parts are not averaged"
        )


def _check_hardware(config: DictConfig) -> None:
    import torch

    from vistok import speed

    accelerator = config.trainer.accelerator
    if accelerator not in ("cpu", "gpu", "cuda"):
        raise ValueError(f"trainer.accelerator={accelerator} must be cpu or gpu: {speed.ONLY_CUDA}")
    if accelerator != "cpu" and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={accelerator}, but torch sees no GPU of CUDA ({speed.ONLY_CUDA}); trainer=cpu runs "
            "without one"
        )
    if accelerator == "cpu" and "bf16" in str(config.trainer.precision) and speed.emulates_bfloat16():
        from vistok.terminal import say

        say("this CPU has no bfloat16 instructions: speed=fast may take ten times as long as speed=exact", "yellow")


def _trainer(
    config: DictConfig, run: Path, health: "CodebookHealth", environment: "list[ClusterEnvironment]"
) -> "pl.Trainer":
    import pytorch_lightning as pl

    from vistok.training.callbacks.finite import FiniteMonitor
    from vistok.training.callbacks.last_checkpoint import LastCheckpoint
    from vistok.training.callbacks.metrics_file import MetricsFile, MissedValidation
    from vistok.training.callbacks.pictures import Pictures
    from vistok.training.callbacks.progress import ProgressLine
    from vistok.training.callbacks.stability import StabilityMonitor
    from vistok.training.checkpoint_io import SafeCheckpointIO
    from vistok.training.run_folder import LAST

    _quiet_lightning()
    metrics = MetricsFile(run / "metrics.csv")
    return pl.Trainer(
        **instantiate(config.trainer),
        logger=instantiate(config.logger) if config.logger else False,
        callbacks=[
            health,
            FiniteMonitor(run),
            StabilityMonitor(config.reference),
            Pictures(run),
            metrics,
            LastCheckpoint(run / LAST, config.save_every),  # after what belongs to an update, before what only shows it
            ProgressLine(),
            MissedValidation(metrics),
        ],
        plugins=[SafeCheckpointIO(config.keep_checkpoints), *environment],
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


def _open_loggers(trainer: "pl.Trainer") -> None:
    """Initialises external loggers before the run's folder exists.

    A logger without an account or a connection thus ends the run without leaving a folder.
    """
    for logger in trainer.loggers:
        try:
            _ = logger.experiment
        except Exception as error:  # a library's own, such as wandb's UsageError
            name = type(logger).__name__.removesuffix("Logger").lower()
            raise ValueError(f"logger={name}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _quiet_lightning() -> None:
    """Suppresses Lightning's hints that do not apply here."""
    import logging
    import warnings

    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Experiment logs directory.*",
        ".*LeafSpec.*",
        ".*sync_dist=True.*",  # logged values are equal on all ranks
        ".*in eval mode at the start of training.*",  # LPIPS is meant to be
        ".*broadcast_buffers. is deprecated.*",  # its successor is not in torch 2.6
    ):
        warnings.filterwarnings("ignore", message=message)
