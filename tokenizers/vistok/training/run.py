"""Training run from a config: check, build, train, export."""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf

from vistok.configuration import (
    check,
    check_channels,
    check_image_size,
    check_keys,
    instantiate,
    loss_weights,
    random_weights,
    refuse_below,
    refuse_missing,
)
from vistok.training.run_name import run_name

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
        overrides: Arguments of the command line, for the run's name and the advice on resuming.

    Returns:
        Metrics of the last validation, by name.

    Raises:
        ValueError: The config is inconsistent, or a checkpoint, data or hardware does not fit it.
    """
    _check_config(config)
    config = OmegaConf.merge(config, {"run": {"name": run_name(config, overrides)}})
    if config.run.gpu_memory is not None:
        raise ValueError(
            f"run.gpu_memory={config.run.gpu_memory} is for python -m vistok estimate, which trains nothing"
        )
    import pytorch_lightning as pl

    from vistok import speed
    from vistok.data import split_record
    from vistok.distributed import launchers
    from vistok.formats import native
    from vistok.training import run_folder, slim_checkpoint, wandb_logger
    from vistok.training.callbacks.codebook_health import CodebookHealth

    _check_hardware(config)
    environment = launchers.environment(config.trainer.devices, config.trainer.num_nodes)
    health = CodebookHealth(on_collapse=config.optim.on_collapse)
    with ExitStack() as lock:
        existing = run_folder.existing_folder(config)
        if existing:  # before anything is read that another run may be writing
            lock.enter_context(run_folder.locked(existing, config.run.take_over))
        pl.seed_everything(config.run.seed, workers=True, verbose=False)
        data, lit = build(config)
        native.check(lit.tokenizer)
        on_cpu = config.trainer.accelerator == "cpu"
        speed.prepare(
            *lit.networks,
            channels_last=config.speed.channels_last
            and speed.channels_last_pays("cpu" if on_cpu else "cuda")
            and (on_cpu or not _sharded(config)),  # FSDP takes no channels-last weights
            keep_pages=config.speed.keep_pages and on_cpu,
            compile=config.speed.compile,
            cudnn_benchmark=None if on_cpu else config.speed.cudnn_benchmark,
            matmul_precision=None if on_cpu else config.speed.matmul_precision,
            several_sizes=data.buckets is not None,
        )
        checkpoint = run_folder.checkpoint_of(config)
        if checkpoint:
            slim_checkpoint.check_checkpoint(lit, checkpoint)
            split_record.check_unchanged(run_folder.run_of_checkpoint(checkpoint), data)
        elif config.model.init:
            slim_checkpoint.load_slim(lit, Path(config.model.init), config.model.family, config.model.family_config)
        _ = data.sizes  # refuses data without images to train on
        if data.buckets:
            _ = data.train_buckets, data.val_buckets  # read before the run has a folder
        folder, new = run_folder.folder_of(config, checkpoint)
        with run_folder.removed_on_error(folder, new):
            if existing is None:
                lock.enter_context(run_folder.locked(folder, config.run.take_over))
            config = OmegaConf.merge(config, {"run": {"dir": str(folder)}})
            try:
                trainer = _trainer(config, folder, health, environment)
            except TypeError as error:
                raise ValueError(f"trainer: {error}") from error
            _open_loggers(trainer)
        with wandb_logger.finished(trainer.loggers):
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
    from vistok.training.callbacks.run_time import RunTime

    if trainer.is_global_zero:
        summary.open_run(config, folder, lit, data, overrides)
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
        summary.close_run(config, folder, lit, data, metrics, _own(trainer, RunTime).seconds)
    return metrics


def _own(trainer: "pl.Trainer", kind: type) -> Any:
    """The trainer's callback of a class."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


def job_of_sweep(config: DictConfig, folder: str) -> DictConfig:
    """Config of one job of ``python train.py -m``: its run has its own folder, and resumes there if requeued.

    Args:
        config: The composed config.
        folder: Folder of the job in the folder of the sweep.
    """
    near = os.path.relpath(folder)
    own = folder if near.startswith(os.pardir) else near
    return OmegaConf.merge(config, {"run": {"dir": config.run.dir or own, "resume": config.run.resume or "auto"}})


def build(config: DictConfig) -> tuple["ImageDataModule", "LitTokenizer"]:
    """Data and module to train, from a config; invalid arguments raise ``ValueError``."""
    data, lit = instantiate(config.data), build_module(config)
    check_image_size(data.image_size, lit.tokenizer)
    if data.buckets:
        data.buckets.choose(data.image_size, lit.tokenizer.grid)
        if lit.adversary:
            lit.adversary.check_sizes(data.buckets.shapes, "data.buckets")
    lit.tokenizer.value_range = data.form.low_high
    return data, lit


def build_module(config: DictConfig) -> "LitTokenizer":
    """Module to train, without data."""
    from vistok.images.rgb_view import rgb_view
    from vistok.training.freezing import leave_codebooks, leave_decoder
    from vistok.training.module import LitTokenizer

    tokenizer, loss = instantiate(config.tokenizer), instantiate(config.loss)
    channels = OmegaConf.select(config, "data.channels", default=3)
    check_channels(channels, tokenizer)
    if config.model.trainable == "codebook":
        leave_codebooks(tokenizer, loss.get("adversary"))
    elif config.model.trainable == "decoder":
        leave_decoder(tokenizer)
    of_head = loss_weights(config.quantizer)
    weights = dict(config.loss.loss_weights)
    weights |= {name: of_head[name] for name in tokenizer.quantizer.loss_names if name in of_head}
    for name, weight in tokenizer.named_parameters():
        if not weight.numel():
            raise ValueError(f"tokenizer.{name} would have the shape {tuple(weight.shape)}: a number of channels is 0")
    return LitTokenizer(
        tokenizer=tokenizer,
        **loss,
        loss_weights=weights,
        optimizer=optimizer_of(config),
        schedule=instantiate(config.schedule),
        ema_decay=config.optim.ema_decay,
        clip=config.optim.clip,
        accumulate=config.optim.accumulate,
        view=rgb_view(channels, OmegaConf.select(config, "data.rgb_bands")),
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
    """Prints a run's requirements, and the batch that fits ``run.gpu_memory`` GiB; needs no data, weights or GPU.

    Raises:
        ValueError: The config is inconsistent.
    """
    memory = config.run.gpu_memory
    if memory is not None and (isinstance(memory, bool | str) or not memory > 0):
        raise ValueError(f"run.gpu_memory is the memory of a GPU in GiB, above 0, not {memory!r}")
    config, name = OmegaConf.merge(config), run_name(config, [])
    kept = ("image_size", "batch_size", "channels", "rgb_bands", "buckets")
    config.data = {name: config.data[name] for name in kept if name in config.data}
    _check_config(config)
    from vistok.data.bucket_sizes import bucket_shapes, largest_shape
    from vistok.training import cost

    config.run.frozen_weights = "random"  # shapes are all that matters, so nothing is downloaded
    gpu, precision = config.trainer.accelerator != "cpu", config.trainer.precision
    ddp, shards = _processes(config)

    def build() -> "LitTokenizer":
        lit = build_module(config)
        check_image_size(size, lit.tokenizer)
        shapes = () if buckets is None else bucket_shapes(buckets, size, lit.tokenizer.grid)
        if lit.adversary:
            lit.adversary.check_sizes(shapes, "data.buckets")
        return lit

    channels, size, buckets = config.data.get("channels", 3), config.data.image_size, config.data.get("buckets")
    shape, last = largest_shape(buckets, size), config.speed.channels_last
    estimated = cost.estimate(build, shape, config.data.batch_size, gpu, precision, ddp, channels, last, shards)
    pixels = size if buckets is None else f"{shape[0]} x {shape[1]}"
    about = f"{name}: {pixels} pixels, {precision} on {'a GPU' if gpu else 'the CPU'}"
    about += ", a process of several with DDP" if ddp else f", a process of {shards} with FSDP" if shards > 1 else ""
    cost.show(estimated, None if memory is None else memory * cost.GIB, about)


def _processes(config: DictConfig) -> tuple[bool, int]:
    """True for a run whose processes average gradients by DDP, and the number over which FSDP shards networks."""
    strategy = OmegaConf.select(config, "trainer.strategy")
    name = strategy if isinstance(strategy, str) else strategy.get("_target_", "").rpartition(".")[2]
    if name != "ShardedStrategy":
        return name.startswith("ddp") or name in ("DDPStrategy", "ReplicatedStrategy"), 1
    devices = config.trainer.devices
    if not isinstance(devices, int) or devices < 1:
        raise ValueError(f"trainer.devices={devices}: an estimate with trainer=fsdp needs the number of processes")
    return False, devices * config.trainer.num_nodes


# Annotations of the keys that are read here, beside those that are handed on to a _target_.
KEYS = {
    "run.name": str | int | float | None,
    "run.frozen_weights": str,
    "run.gpu_memory": Any,
    **dict.fromkeys(("run.dir", "run.resume"), str | None),
    **dict.fromkeys(("run.debug", "run.take_over"), bool),
    **dict.fromkeys(("run.seed", "data.image_size", "data.batch_size"), int),
    **dict.fromkeys(("model.latent_dim", "model.codebook_size"), int),
    **dict.fromkeys(("model.init", "model.family", "log.loss_band"), str | None),
    "model.family_config": dict | None,
    "model.trainable": str,
    **dict.fromkeys(("optim.updates", "optim.accumulate", "optim.adversarial_start"), int),
    **dict.fromkeys(("optim.clip", "optim.ema_decay"), float | None),
    "optim.on_collapse": Literal["restart", "reinitialise"] | None,
    **dict.fromkeys(("log.every", "log.val_every", "log.keep_checkpoints"), int),
    "log.save_every": int | None,
}
GIVEN_TO = {
    "trainer": "pytorch_lightning.Trainer",
    "loss": "vistok.training.module.LitTokenizer",
    "speed": "vistok.speed.prepare",
}
COUNTS = (
    "optim.updates",
    "data.batch_size",
    "optim.accumulate",
    "log.val_every",
    "log.every",
    "log.save_every",
    "log.keep_checkpoints",
    "data.image_size",
    "model.latent_dim",
)


def _check_config(config: DictConfig) -> None:
    """Refuses errors that are visible in the config alone."""
    refuse_missing(config)
    check_keys(config, KEYS, "train")
    check(OmegaConf.merge(config, {"run": {"dir": config.run.dir or "runs"}}), KEYS, GIVEN_TO)
    refuse_below(config, 1, COUNTS)
    refuse_below(config, 2, ("model.codebook_size",))
    refuse_below(config, 0, ("run.seed",))
    random = config.run.frozen_weights == "random"
    for name in () if config.run.debug else ["run.frozen_weights"] * random + random_weights({"loss": config.loss}):
        raise ValueError(f"{name}=random trains on meaningless losses: it is for trainer=debug only")
    if "16" in str(config.trainer.precision) and "bf16" not in str(config.trainer.precision):
        raise ValueError(
            f"trainer.precision={config.trainer.precision} is not supported: float16 ends at 65,504 and would need "
            "scaled gradients, and on a CPU torch's float16 is far slower than float32; use speed=fast (bf16-mixed) "
            "or speed=exact (32-true)"
        )
    part = config.model.trainable
    if part not in ("all", "codebook", "decoder"):
        raise ValueError(f"model.trainable must be all, codebook or decoder, not {part!r}")
    if part != "all" and not (config.model.init or config.run.resume):
        raise ValueError(f"model.trainable={part} needs trained weights of the other parts: give model.init=")
    if part == "decoder" and config.optim.on_collapse:
        raise ValueError(
            f"optim.on_collapse={config.optim.on_collapse} moves codewords, which model.trainable=decoder freezes"
        )
    if config.optim.ema_decay is not None and _sharded(config):
        raise ValueError(
            f"optim.ema_decay={config.optim.ema_decay} is not supported with trainer=fsdp: sharded weights are not "
            "averaged"
        )
    if config.data.get("buckets") is not None and _sharded(config):
        raise ValueError(
            f"data.buckets={config.data.buckets} is not supported with trainer=fsdp: processes with sharded weights "
            "need equally many batches in a validation"
        )


def _sharded(config: DictConfig) -> bool:
    return "ShardedStrategy" in str(config.trainer.strategy)


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
    from vistok.training.callbacks.held_out import HeldOutHashes
    from vistok.training.callbacks.last_checkpoint import LastCheckpoint
    from vistok.training.callbacks.metrics_file import MetricsFile, MissedValidation
    from vistok.training.callbacks.pictures import Pictures
    from vistok.training.callbacks.progress import ProgressLine
    from vistok.training.callbacks.run_time import RunTime
    from vistok.training.callbacks.stability import StabilityMonitor
    from vistok.training.checkpoint_io import SafeCheckpointIO
    from vistok.training.run_folder import LAST

    _quiet_lightning()
    metrics, run_time = MetricsFile(run / "metrics.csv"), RunTime()
    return pl.Trainer(
        **instantiate(config.trainer),
        logger=instantiate(config.logger) if config.get("logger") else False,
        callbacks=[
            run_time,
            health,
            FiniteMonitor(run),
            StabilityMonitor(config.log.loss_band),
            Pictures(run),
            HeldOutHashes(run),
            metrics,
            LastCheckpoint(
                run / LAST, config.log.save_every
            ),  # after what belongs to an update, before what only shows it
            ProgressLine(run_time=run_time),
            MissedValidation(metrics),
        ],
        plugins=[SafeCheckpointIO(config.log.keep_checkpoints), *environment],
        max_epochs=-1,  # the module stops the trainer after its updates
        val_check_interval=config.log.val_every * config.optim.accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=config.log.every * config.optim.accumulate,
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
