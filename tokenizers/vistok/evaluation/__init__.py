"""Evaluation: named protocols, exact on any number of processes, resumable."""

from vistok.evaluation.judges import Judges
from vistok.evaluation.protocols import Protocol
from vistok.evaluation.running import evaluate
from vistok.evaluation.scores import Scores
from vistok.evaluation.scoring import score

__all__ = ["Judges", "Protocol", "Scores", "evaluate", "score"]
