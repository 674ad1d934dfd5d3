"""Prints the parameters, FLOPs and memory of a training run, and the batch that fits: ``python -m vistok estimate``."""

from collections.abc import Sequence

from omegaconf import DictConfig

from vistok.commands import composition
from vistok.commands.composition import _composed, _run
from vistok.processes import openmp
from vistok.training import run


def start_estimate(config: DictConfig) -> None:
    """Estimate; a wrong config ends the process."""
    _composed()
    openmp.share_cores()
    composition.run(run.estimate, config)


def main(words: Sequence[str]) -> None:
    """Run the command with the words that follow its name: those of ``train``."""
    _run("train", start_estimate, words, "estimate")
