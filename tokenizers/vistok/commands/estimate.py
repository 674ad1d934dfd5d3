"""Prints the parameters, FLOPs and memory of a training run, and the batch that fits: ``python -m vistok estimate``."""

from collections.abc import Sequence

from omegaconf import DictConfig

from vistok.commands import composition
from vistok.commands.composition import _composed, _run
from vistok.processes import openmp
from vistok.training import run


def start_estimate(config: DictConfig) -> None:
    """Prints an estimate; a wrong config ends the process."""
    _composed()
    openmp.share_cores()
    composition.run(run.estimate, config)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments that follow its name: those of ``train``."""
    _run("train", start_estimate, arguments, "estimate")
