"""Evaluation: named protocols, exact on any number of processes, resumable."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vistok.evaluation.accumulator import Scores
    from vistok.evaluation.comparison import compare
    from vistok.evaluation.networks import ScoringNetworks
    from vistok.evaluation.protocols import Protocol
    from vistok.evaluation.reconstructions import TokenizerReconstructions
    from vistok.evaluation.scoring import score
    from vistok.evaluation.stored import StoredReconstructions

__all__ = [
    "ScoringNetworks",
    "Protocol",
    "Scores",
    "StoredReconstructions",
    "TokenizerReconstructions",
    "compare",
    "score",
]

_HOMES = {  # imported when they are first used: a config is checked before torch is loaded
    "ScoringNetworks": "vistok.evaluation.networks",
    "Protocol": "vistok.evaluation.protocols",
    "Scores": "vistok.evaluation.accumulator",
    "compare": "vistok.evaluation.comparison",
    "StoredReconstructions": "vistok.evaluation.stored",
    "TokenizerReconstructions": "vistok.evaluation.reconstructions",
    "score": "vistok.evaluation.scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vistok.evaluation' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
