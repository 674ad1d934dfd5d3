"""Trains a tokenizer: ``python -m vistok train``, and ``train.py`` of the repository."""

from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vistok.commands import composition
from vistok.commands.composition import _composed, _run
from vistok.processes import openmp
from vistok.training import run


def start_training(config: DictConfig) -> None:
    """Trains; a wrong config ends the process."""
    _composed()
    openmp.share_cores()
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        config = run.job_of_sweep(config, job.runtime.output_dir)
    composition.run(run.train, config, list(job.overrides.task))


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments that follow its name."""
    _run("train", start_training, arguments)
