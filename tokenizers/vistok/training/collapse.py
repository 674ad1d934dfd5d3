"""Collapse of codebooks: its definition, and its detection in windows of updates."""

from typing import Any, NamedTuple

from torch import Tensor

from vistok.metrics.usage import usage_of


class CollapseRule(NamedTuple):
    """Thresholds by which a codebook counts as collapsed: relative usage is too low throughout ``patience`` updates.

    Relative usage is ``usage / usage_ceiling``, so that a large codebook is not penalised for a window of few tokens.
    It is 0 where one codeword takes all tokens, since such codes carry no information. The limit is the larger of two
    values: ``floor``, for codebooks that never come into use, and ``drop`` times the best relative usage so far, for
    codebooks that fall out of use. The best is the highest value that relative usage did not fall below for
    ``patience`` updates. Hence a window of unusual images, the short peak after codewords were set from data, and the
    noise of short windows raise no alarm. A collapse ends once relative usage has not been below the limit for
    ``patience`` updates.

    In windows of 20, 50 or 100 updates a codebook that is never used is flagged by update 200. In windows of up to 100
    updates a codebook that falls out of use is flagged within 200 updates.

    Args:
        grace: Windows that begin before this number of updates are ignored, since most codebooks start badly or too
            well.
        patience: Updates for which relative usage must be too low.
        floor: Lowest relative usage of a healthy codebook, in [0, 1].
        drop: Lowest share of the best relative usage so far, in [0, 1].
    """

    grace: int = 100
    patience: int = 60
    floor: float = 0.1
    drop: float = 0.5


class CollapseDetector:
    """Applies a ``CollapseRule`` to the windows of one codebook.

    Attributes:
        collapsed: True while the codebook counts as collapsed.
        best: Highest value that relative usage did not fall below for ``patience`` updates.
        recent: First update and relative usage of each of the last windows that together cover ``patience`` updates.
    """

    def __init__(self, rule: CollapseRule):
        self.rule, self.collapsed, self.best = rule, False, 0.0
        self.recent: list[tuple[int, float]] = []

    @property
    def limit(self) -> float:
        """Relative usage below which the codebook is unhealthy."""
        return max(self.rule.floor, self.rule.drop * self.best)

    def observe(self, first: int, last: int, share: float) -> bool:
        """Adds a window.

        Args:
            first: Number of updates before the window.
            last: Number of updates at its end.
            share: Relative usage in the window.

        Returns:
            True if relative usage has been too low for ``patience`` updates.
        """
        if first < self.rule.grace:
            return False
        self.recent.append((first, share))
        while len(self.recent) > 1 and last - self.recent[1][0] >= self.rule.patience:
            self.recent.pop(0)
        if last - self.recent[0][0] < self.rule.patience:
            return False
        lowest, highest = min(share for _, share in self.recent), max(share for _, share in self.recent)
        low = highest < self.limit
        self.collapsed = low or (self.collapsed and lowest < self.limit)
        self.best = max(self.best, lowest)
        return low

    def state_dict(self) -> dict[str, Any]:
        return {"collapsed": self.collapsed, "best": self.best, "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.collapsed, self.best, self.recent = state["collapsed"], state["best"], list(state["recent"])


def relative_usage(counts: Tensor) -> float:
    """Usage divided by its ceiling, from counts (n,) that are not all 0; 0 where only one codeword was chosen."""
    usage = usage_of(counts)
    return float(usage["usage"] / usage["usage_ceiling"]) if (counts > 0).sum() > 1 else 0.0
