"""``python -m vistok train``, and ``train.py`` of the repository: train a tokenizer."""

from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vistok.commands import composition
from vistok.commands.composition import _composed, _run
from vistok.processes import openmp
from vistok.training import run


def start_training(config: DictConfig) -> None:
    """Train, or say what training would need where ``estimate`` is set; ends the process where the config is wrong."""
    _composed()
    openmp.share_cores()
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        config = run.job_of_sweep(config, job.runtime.output_dir)
    if config.estimate is not None:
        composition.run(run.estimate, config)
    else:
        composition.run(run.train, config, list(job.overrides.task))


def train(words: Sequence[str]) -> None:
    """``python -m vistok train``, with the rest of its words."""
    _run("train", start_training, words)
