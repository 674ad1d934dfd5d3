"""Windows that cover an axis."""

import pytest

from vistok.tiles.spans import spans


def test_by_hand():
    """Two steps of three over ten positions: windows of four share one position, whose middle is rounded down."""
    assert spans(10, 4, 0) == [(0, 4, 0, 3), (3, 7, 3, 6), (6, 10, 6, 10)]
    assert spans(10, 6, 1) == [(0, 6, 0, 5), (4, 10, 5, 10)]
    assert spans(6, 6, 2) == spans(6, 9, 2) == [(0, 6, 0, 6)]


@pytest.mark.parametrize("window, margin", [(1, 0), (5, 2), (8, 3), (8, 0), (9, 1)])
def test_every_position_is_kept_once_with_its_margin(window, margin):
    for length in range(1, 60):
        found = spans(length, window, margin)
        assert [at for span in found for at in range(span.first, span.last)] == list(range(length))
        assert all(span.stop - span.start == min(window, length) and span.stop <= length for span in found)
        for span in found:
            assert span.start == 0 or span.first - span.start >= margin
            assert span.stop == length or span.stop - span.last >= margin
