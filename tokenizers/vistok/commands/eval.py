"""``python -m vistok eval``, and ``eval.py`` of the repository: score tokenizers."""

from collections.abc import Sequence

from omegaconf import DictConfig

from vistok.commands import composition
from vistok.commands.composition import _composed, _run
from vistok.evaluation.keys import check_config
from vistok.processes import openmp


def start_evaluation(config: DictConfig) -> None:
    """Evaluate; ends the process where the config is wrong."""
    _composed()
    openmp.share_cores()
    composition.run(_checked_evaluation, config, again="the same command goes on where this one was")


def _checked_evaluation(config: DictConfig) -> None:
    check_config(config)
    from vistok.evaluation.evaluate import evaluate

    evaluate(config)


def evaluate(words: Sequence[str]) -> None:
    """``python -m vistok eval``, with the rest of its words."""
    _run("eval", start_evaluation, words)
