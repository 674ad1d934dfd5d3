"""What ``train.py`` does with its config: check, build, run, report; and what ``eval.py`` shares with it."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from lightning_fabric.plugins.environments import ClusterEnvironment

    from vistok.data import ImageDataModule
    from vistok.health import CodebookHealth
    from vistok.tokenizer import Tokenizer
    from vistok.training import LitTokenizer


def run(action: Callable[..., Any], *arguments: Any, again: str | None = None) -> None:
    """Do ``train`` or ``evaluation.evaluate``; what the user got wrong ends in one message (``failures.guard``)."""
    from vistok.failures import guard

    guard(action, *arguments, again=again)


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

    from vistok import cluster, runs, speed
    from vistok.export import hub
    from vistok.health import CodebookHealth

    _check_hardware(config)
    environment = cluster.environment(config.trainer.devices, config.trainer.num_nodes)
    health = CodebookHealth(on_collapse=config.on_collapse)
    with ExitStack() as lock:
        existing = runs.existing_folder(config)
        if existing:  # before anything is read that another run may be writing
            lock.enter_context(runs.locked(existing, config.take_over))
        pl.seed_everything(config.seed, workers=True, verbose=False)
        data, lit = build(config)
        hub.check(lit.tokenizer)
        on_cpu = config.trainer.accelerator == "cpu"
        speed.prepare(
            *lit.networks,
            channels_last=config.speed.channels_last and on_cpu,
            keep_pages=config.speed.keep_pages and on_cpu,
            compile=config.speed.compile,
        )
        checkpoint = runs.checkpoint_of(config)
        if checkpoint:
            runs.check_checkpoint(lit, checkpoint)
        elif config.init:
            runs.load_slim(lit, Path(config.init), config.family, config.family_config)
        _ = data.sizes  # refuses data without images to train on
        folder, new = runs.folder_of(config, checkpoint)
        with runs.unmade(folder, new):
            if existing is None:
                lock.enter_context(runs.locked(folder, config.take_over))
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
    """Train from where ``checkpoint`` is, and leave in the folder what a run leaves."""
    from vistok import cluster, reports, sharding
    from vistok.signals import Interrupted

    if trainer.is_global_zero:
        reports.open_run(config, folder, lit, data)
    started = time.monotonic()
    try:
        trainer.fit(lit, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Interrupted as interrupted:
        if trainer.is_global_zero:
            reports.say_how_to_resume(folder, lit, overrides)
        cluster.hand_on(interrupted.number)
        sys.exit(interrupted.status)
    if lit.device_mesh is not None:
        lit.tokenizer = sharding.gathered(lit.tokenizer, lambda: instantiate(config.tokenizer))
    metrics = {
        name.removeprefix("val/"): value.item()
        for name, value in trainer.callback_metrics.items()
        if name.startswith("val/")
    }
    if trainer.is_global_zero:
        reports.close_run(folder, lit, data, metrics, time.monotonic() - started)
    return metrics


def job_of_sweep(config: DictConfig, folder: str) -> DictConfig:
    """The config of one job of ``python train.py -m``: its run has a folder of its own, and goes on there if requeued.

    Args:
        config: The composed config.
        folder: The job's, in the sweep's folder.
    """
    return OmegaConf.merge(config, {"run_dir": config.run_dir or folder, "ckpt": config.ckpt or "auto"})


def build(config: DictConfig) -> tuple["ImageDataModule", "LitTokenizer"]:
    """The data and the module to train, from a config; wrong arguments raise ValueError."""
    data, lit = instantiate(config.data), build_module(config)
    check_image_size(data.image_size, lit.tokenizer)
    return data, lit


def build_module(config: DictConfig) -> "LitTokenizer":
    """The module to train alone."""
    from vistok.freezing import leave_codebooks
    from vistok.training import LitTokenizer

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
    """From parameters to an optimizer; its arguments are tried on one parameter."""
    import torch

    try:
        make = instantiate(config.optimizer)
        make([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer: {error}") from error
    return make


def estimate(config: DictConfig) -> None:
    """Print what the run would need, and the batch that fits ``config.estimate`` GiB; needs no data, weights or GPU.

    Raises:
        ValueError: The config does not make sense.
    """
    if isinstance(config.estimate, bool | str) or not config.estimate > 0:
        raise ValueError(f"estimate is the memory of a GPU in GiB, above 0, not {config.estimate!r}")
    _check_config(OmegaConf.merge(config, {"data": None}))
    from vistok import estimate as estimator

    config = OmegaConf.merge(config, {"weights": "random"})  # shapes are all that matters, so nothing is downloaded
    gpu, precision = config.trainer.accelerator != "cpu", config.trainer.precision
    ddp = str(config.trainer.strategy).startswith("ddp")

    def build() -> "LitTokenizer":
        lit = build_module(config)
        check_image_size(config.image_size, lit.tokenizer)
        return lit

    estimated = estimator.estimate(build, config.image_size, config.batch_size, gpu, precision, ddp)
    about = f"{config.name}: {config.image_size} pixels, {precision} on {'a GPU' if gpu else 'the CPU'}"
    estimator.show(estimated, config.estimate * estimator.GIB, about)


def check_image_size(image_size: int, tokenizer: "Tokenizer") -> None:
    """Refuse images of a size that the tokenizer does not take."""
    tokenizer.grid(image_size, image_size, f"image_size={image_size}")


def instantiate(node: DictConfig) -> Any:
    """Hydra's ``instantiate``, with plain dicts and lists for arguments. For our own YAML only, never for a file.

    What stands under ``loss_weights``, at any depth, is no argument: see the function of that name.
    """
    import hydra.utils

    if OmegaConf.is_config(node):
        parent, key = node._get_parent(), node._key()
        node = OmegaConf.create(_without_weights(OmegaConf.to_container(node, resolve=True)))
        node._set_parent(parent)  # so that a message names the whole key
        node._set_key(key)
    return hydra.utils.instantiate(node, _convert_="all")


def _without_weights(node: Any) -> Any:
    """Nested mappings and lists without their ``loss_weights``."""
    if isinstance(node, list):
        return [_without_weights(member) for member in node]
    if not isinstance(node, dict):
        return node
    return {name: _without_weights(value) for name, value in node.items() if name != "loss_weights"}


def loss_weights(quantizer: DictConfig) -> dict[str, float]:
    """The weights of a head's loss terms by name, from the ``loss_weights`` of its YAML and of the heads in it.

    Where several have one for a term, the outer head's counts.

    Raises:
        ValueError: Heads beside each other have different ones, and no outer head decides.
    """
    plain = OmegaConf.to_container(quantizer, resolve=True) if OmegaConf.is_config(quantizer) else quantizer
    return _merged_weights(plain, "quantizer")


def _merged_weights(node: dict[str, Any], path: str) -> dict[str, float]:
    own = node.get("loss_weights") or {}
    lists = [(name, value if isinstance(value, list) else [value]) for name, value in node.items()]
    members = [(name, member) for name, found in lists for member in found if isinstance(member, dict)]
    merged: dict[str, float] = {}
    for name, member in members:
        inner = {} if name == "loss_weights" else _merged_weights(member, f"{path}.{name}")
        for term, weight in inner.items():
            if term not in own and merged.setdefault(term, weight) != weight:
                raise ValueError(
                    f"{path} has heads with loss_weights.{term} of {merged[term]} and {weight}, but the term is the "
                    f"sum of theirs: +{path}.loss_weights.{term}=... decides"
                )
    return merged | own


# What the keys are that are read here, beside those that are handed on to a _target_.
KEYS = {
    "name": str | int | float,
    "trainable": str,
    "weights": str,
    "family": str | None,
    "family_config": dict | None,
    "on_collapse": str | None,
    **dict.fromkeys(("run_dir", "ckpt", "init", "reference"), str | None),
    **dict.fromkeys(("debug", "take_over"), bool),
    **dict.fromkeys(("seed", "image_size", "batch_size", "accumulate", "updates"), int),
    **dict.fromkeys(("val_every", "log_every", "keep_checkpoints", "adversarial_start"), int),
    **dict.fromkeys(("latent_dim", "codebook_size"), int),
    "save_every": int | None,
    **dict.fromkeys(("ema_decay", "clip"), float | None),
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
)


def _check_config(config: DictConfig) -> None:
    """What can be seen to be wrong from the config alone."""
    refuse_missing(config)
    import pytorch_lightning as pl

    from vistok import data, speed, values
    from vistok.training import LitTokenizer

    given_to = {"trainer": pl.Trainer, "loss": LitTokenizer, "speed": speed.prepare, "augmentation": data.folder}
    values.check(OmegaConf.merge(config, {"run_dir": config.run_dir or "runs"}), KEYS, given_to)
    refuse_below(config, 1, COUNTS)
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


def refuse_below(config: DictConfig, least: int, names: Sequence[str]) -> None:
    """Raise ``ValueError`` for keys whose numbers are smaller."""
    for name in names:
        if config[name] is not None and config[name] < least:
            raise ValueError(f"{name} must be at least {least}, not {config[name]}")


def random_weights(node: Any, path: str = "") -> list[str]:
    """The dotted paths of all that is called ``weights`` in nested mappings and is ``random``."""
    if not isinstance(node, dict | DictConfig):
        return []
    found = []
    for name, value in node.items():
        own = f"{path}.{name}" if path else name
        found += [own] if name == "weights" and value == "random" else random_weights(value, own)
    return found


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


def refuse_missing(config: DictConfig) -> None:
    """Raise ``ValueError`` for values that only the command line can give."""
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise ValueError(f"missing on the command line: {' '.join(f'{key}=...' for key in sorted(missing))}")


def _trainer(
    config: DictConfig, run: Path, health: "CodebookHealth", environment: "list[ClusterEnvironment]"
) -> "pl.Trainer":
    import pytorch_lightning as pl

    from vistok.callbacks import FiniteWatch, LastCheckpoint, Pictures, ProgressLine
    from vistok.checkpoints import SafeCheckpointIO
    from vistok.metrics_file import MetricsFile, MissedValidation
    from vistok.runs import LAST
    from vistok.stability import StabilityWatch

    _quiet_lightning()
    metrics = MetricsFile(run / "metrics.csv")
    return pl.Trainer(
        **instantiate(config.trainer),
        logger=instantiate(config.logger) if config.logger else False,
        callbacks=[
            health,
            FiniteWatch(run),
            StabilityWatch(config.reference),
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
    """Begin with others' loggers at once: one without an account, or a connection, ends the run before its folder."""
    for logger in trainer.loggers:
        try:
            _ = logger.experiment
        except Exception as error:  # a library's own, such as wandb's UsageError
            name = type(logger).__name__.removesuffix("Logger").lower()
            raise ValueError(f"logger={name}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _quiet_lightning() -> None:
    """Lightning's hints that do not apply: the loaders and the folder are as they should be."""
    import logging
    import warnings

    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Experiment logs directory.*",
        ".*LeafSpec.*",
        ".*sync_dist=True.*",  # what is logged is the same on all ranks
        ".*in eval mode at the start of training.*",  # LPIPS is meant to be
        ".*broadcast_buffers. is deprecated.*",  # its successor is not in torch 2.6
    ):
        warnings.filterwarnings("ignore", message=message)
