"""Trains a tokenizer: ``python -m vistok train``, and ``train.py`` of the repository."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vistok.commands import composition
from vistok.commands.composition import _composed, _run
from vistok.processes import openmp
from vistok.terminal import say
from vistok.training import run, run_name

run_name.register()


def start_training(config: DictConfig) -> None:
    """Trains; a wrong config ends the process, or in a sweep only its job."""
    _composed()
    openmp.share_cores()
    job = HydraConfig.get()
    arguments = list(job.overrides.task)
    if job.mode != RunMode.MULTIRUN:
        composition.run(run.train, config, arguments)
        return
    from vistok.training import sweep

    config = run.job_of_sweep(config, job.runtime.output_dir)
    if sweep.has_ended(config):
        say(f"{config.run.dir} has ended before")
        return
    say(f"job {job.job.num}: {config.run.dir}")
    try:
        composition.run(run.train, config, arguments)
    except SystemExit as ended:
        if not isinstance(ended.code, str):  # a signal
            raise
        say(ended.code, "red")
        with suppress(OSError):  # it has files of a run that began
            Path(config.run.dir).rmdir()
        raise sweep.JobFailed(ended.code) from None


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments that follow its name."""
    _run("train", start_training, arguments)
