"""Evaluation: named protocols, exact on any number of processes, resumable."""

from vistok.evaluation.accumulator import Scores
from vistok.evaluation.networks import ScoringNetworks
from vistok.evaluation.protocols import Protocol
from vistok.evaluation.scoring import score

__all__ = ["ScoringNetworks", "Protocol", "Scores", "score"]
