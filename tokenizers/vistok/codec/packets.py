"""Codes dealt to packets so that a lost packet leaves every position neighbours to be concealed from."""

from functools import cache

import numpy as np

MOST = 255


def packet_of(h: int, w: int, packets: int) -> np.ndarray:
    """The packet (h, w) of each position of a grid: ``(x + step y) mod packets``, one lattice for each packet."""
    step = step_of(packets)
    return (np.arange(w)[None] + step * np.arange(h)[:, None]) % packets


@cache
def step_of(packets: int) -> int:
    """The step by which positions of the same packet are farthest apart, the smallest such."""

    def nearest(step: int) -> int:  # squared distance of a position to the next one of its packet
        reach = np.arange(-packets, packets + 1)
        x, y = np.meshgrid(reach, reach[packets:])
        same = ((x + step * y) % packets == 0) & ((x != 0) | (y != 0))
        return int((x * x + y * y)[same].min())

    return max(range(1, packets + 1), key=lambda step: (nearest(step), -step))
