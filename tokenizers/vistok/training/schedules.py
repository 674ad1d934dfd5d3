"""Learning rate schedules as a factor for each update."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

DECAYS = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a plateau, decay and drops: a factor of the learning rate as a function of the update.

    Attributes:
        updates: Length of the schedule; later updates keep the last factor.
        decay: ``constant``, ``linear`` or ``cosine`` (half a period).
        warmup: Updates of linear warm-up from ``start`` to 1; below 1, a share of all updates. Half of them if there
            are fewer than this.
        start: Factor at the start of the warm-up, which reaches 1 at its last update.
        hold: Share of the updates after the warm-up that stay at 1 before the decay (0.3 in FVQ, arXiv:2509.10140).
        final: Factor at the end of the decay.
        drops: Updates from which the factor is a tenth of what it would be, for each of them that has passed.
    """

    updates: int
    decay: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0
    start: float = 0.0
    hold: float = 0.0
    final: float = 0.0
    drops: Sequence[int] = ()

    def __post_init__(self):
        if self.decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(DECAYS)}, not {self.decay!r}")
        if not self.warmup >= 0:
            raise ValueError(f"warmup must be at least 0, not {self.warmup}")
        if not 0 <= self.hold <= 1:
            raise ValueError(f"hold is a share of the updates, in [0, 1], not {self.hold}")
        if any(drop < 0 for drop in self.drops):
            raise ValueError(f"drops must be updates, 0 or later, not {list(self.drops)}")

    def __call__(self, update: int) -> float:
        """Factor for ``update``, counted from 0."""
        return self._smooth(update) * 0.1 ** sum(update >= drop for drop in self.drops)

    def _smooth(self, update: int) -> float:
        """Factor without the drops."""
        warmup = round(self.warmup * self.updates) if self.warmup < 1 else self.warmup
        if warmup > self.updates:
            warmup = self.updates // 2
        if update < warmup:
            return self.start + (1 - self.start) * (update + 1) / warmup
        if self.decay == "constant":
            return 1.0
        plateau = warmup + self.hold * (self.updates - warmup)
        progress = min(1.0, max(0.0, (update - plateau) / max(1.0, self.updates - plateau)))
        left = 1 - progress if self.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.final + (1 - self.final) * left
