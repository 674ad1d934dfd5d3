"""Scores tokenizers: ``python -m vistok eval``, and ``eval.py`` of the repository."""

from collections.abc import Sequence

from omegaconf import DictConfig

from vistok.commands import composition
from vistok.commands.composition import _composed, _run
from vistok.evaluation.config_check import check_config
from vistok.processes import openmp


def start_evaluation(config: DictConfig) -> None:
    """Scores; a wrong config ends the process."""
    _composed()
    openmp.share_cores()
    composition.run(_checked_evaluation, config, again="the same command resumes")


def _checked_evaluation(config: DictConfig) -> None:
    check_config(config)
    from vistok.evaluation.evaluate import evaluate

    evaluate(config)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments that follow its name."""
    _run("eval", start_evaluation, arguments)
