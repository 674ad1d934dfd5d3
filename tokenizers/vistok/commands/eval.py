"""``python -m vistok eval``, and ``eval.py`` of the repository: score tokenizers."""

from collections.abc import Sequence

from omegaconf import DictConfig

from vistok.commands import composition
from vistok.commands.composition import _composed, _run
from vistok.processes import openmp


def start_evaluation(config: DictConfig) -> None:
    """Evaluate; ends the process where the config is wrong."""
    _composed()
    openmp.share_cores()
    from vistok.evaluation.evaluate import evaluate

    composition.run(evaluate, config, again="the same command goes on where this one was")


def evaluate(words: Sequence[str]) -> None:
    """``python -m vistok eval``, with the rest of its words."""
    _run("eval", start_evaluation, words)
