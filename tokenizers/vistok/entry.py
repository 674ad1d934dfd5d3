"""``python -m vistok train`` and ``eval``: what ``train.py`` and ``eval.py`` do, with the configs in the package.

An installed wheel has no scripts and no ``configs`` folder beside it; in the repository both ways are the same.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vistok import cli, openmp

CONFIGS = Path(__file__).parent / "configs"


def start_training(config: DictConfig) -> None:
    """Train, or say what training would need where ``estimate`` is set; ends the process where the config is wrong."""
    openmp.share_cores()
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        config = cli.job_of_sweep(config, job.runtime.output_dir)
    if config.estimate is not None:
        cli.run(cli.estimate, config)
    else:
        cli.run(cli.train, config, list(job.overrides.task))


def start_evaluation(config: DictConfig) -> None:
    """Evaluate; ends the process where the config is wrong."""
    openmp.share_cores()
    from vistok.evaluation import evaluate

    cli.run(evaluate, config)


def train(words: Sequence[str]) -> None:
    """``python -m vistok train``, with the rest of its words."""
    _run("train", start_training, words)


def evaluate(words: Sequence[str]) -> None:
    """``python -m vistok eval``, with the rest of its words."""
    _run("eval", start_evaluation, words)


def _run(name: str, action: Callable[[DictConfig], None], words: Sequence[str]) -> None:
    asked = sys.argv

    @hydra.main(version_base="1.3", config_path=str(CONFIGS.resolve()), config_name=name)
    def main(config: DictConfig) -> None:
        sys.argv = asked  # Lightning starts further processes with the whole command
        action(config)

    sys.argv = [asked[0], *words]  # what Hydra reads
    try:
        main()
    finally:
        sys.argv = asked
