"""Windows of one length that cover an axis and overlap."""

from typing import NamedTuple


class Span(NamedTuple):
    """Window on an axis, and the part of it that is kept where nothing is blended."""

    start: int  # of the window
    stop: int
    first: int  # of the kept part, which ends where that of the next window begins
    last: int


def spans(length: int, window: int, margin: int) -> list[Span]:
    """Windows over an axis, evenly spaced. Neighbours share at least twice the margin, and meet in the middle of it.

    Args:
        length: Length of the axis.
        window: Length of each window; one window covers a shorter axis.
        margin: Length beside each kept part, at most where the axis does not end; below half of the window.
    """
    if length <= window:
        return [Span(0, length, 0, length)]
    steps = -(-(length - window) // (window - 2 * margin))
    starts = [i * (length - window) // steps for i in range(steps + 1)]
    seams = [(start + before + window) // 2 for before, start in zip(starts, starts[1:], strict=False)]
    return [
        Span(start, start + window, first, last)
        for start, first, last in zip(starts, [0, *seams], [*seams, length], strict=True)
    ]
