"""Assignment of codes to packets such that every position of a lost packet keeps neighbours for its concealment."""

from functools import cache

import numpy as np

MOST = 255


def packet_of(h: int, w: int, packets: int) -> np.ndarray:
    """Packet (h, w) of each position of a grid: ``(x + step y) mod packets``, one lattice for each packet."""
    step = step_of(packets)
    return (np.arange(w)[None] + step * np.arange(h)[:, None]) % packets


@cache
def step_of(packets: int) -> int:
    """Smallest step with the largest distance between positions of the same packet."""

    def nearest(step: int) -> int:  # squared distance of a position to the next one of its packet
        reach = np.arange(-packets, packets + 1)
        x, y = np.meshgrid(reach, reach[packets:])
        same = ((x + step * y) % packets == 0) & ((x != 0) | (y != 0))
        return int((x * x + y * y)[same].min())

    return max(range(1, packets + 1), key=lambda step: (nearest(step), -step))
