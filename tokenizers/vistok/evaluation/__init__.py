"""Evaluation: named protocols, exact on any number of processes, resumable."""

from vistok.evaluation.protocols import Protocol
from vistok.evaluation.running import evaluate, score
from vistok.evaluation.scores import Judges, Scores

__all__ = ["Judges", "Protocol", "Scores", "evaluate", "score"]
