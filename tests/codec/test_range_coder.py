"""Codes to bytes and back: the bits they take against their entropy, and against bytes worked by hand."""

import numpy as np
import pytest
import torch

from vistok.codec import range_coder
from vistok.codec.frequencies import CLASSES, OUTSIDE, SCALE, STRENGTH, Statistics, context_of, gather, integers

from .conftest import skewed


def statistics(size, seed=0):
    rng = np.random.default_rng(seed)
    return gather(torch.from_numpy(rng.normal(size=(size, 3))).float(), skewed(rng, (60, 8, 8), size))


@pytest.mark.parametrize("coding", range_coder.CODINGS.values())
@pytest.mark.parametrize("size", [2, 3, 20, 300])
def test_what_goes_in_comes_out(coding, size):
    codes = np.stack([skewed(np.random.default_rng(i), (7, 9), size) for i in range(2)])
    stats = [statistics(size, 3), statistics(size, 4)]
    data = range_coder.encode(codes, stats, coding)
    assert np.array_equal(range_coder.decode(data, (7, 9), stats, coding), codes)
    rare = np.full((2, 7, 9), size - 1)
    assert np.array_equal(range_coder.decode(range_coder.encode(rare, stats, coding), (7, 9), stats, coding), rare)


@pytest.mark.parametrize("coding", [range_coder.STATIC, range_coder.CONTEXT])
@pytest.mark.parametrize("often", [1, 50, 2**20])
def test_equal_codes_take_their_bits(coding, often):
    """The first code of all is nothing but zeros: a few bytes must not be an image of any size."""
    frequencies = np.array([often, 1, often, 3], np.int32)
    rows = np.broadcast_to(frequencies, (CLASSES + 1, CLASSES + 1, 4))
    stats = [Statistics(frequencies, np.zeros(4, np.uint8), rows)]
    for code in range(4):
        codes = np.full((1, 100, 90), code)
        data = range_coder.encode(codes, stats, coding)
        assert np.array_equal(range_coder.decode(data, (100, 90), stats, coding), codes)
        assert len(data) >= range_coder.least_bytes(9000, stats, coding) > 1_000
    with pytest.raises(ValueError, match="1,000,000 of each codebook take more than 100 bytes"):
        range_coder.decode(bytes(100), (1000, 1000), stats, coding)


def test_fixed_length_by_hand():
    stats = [statistics(5)]
    assert range_coder.encode(np.array([[4, 1, 3]]), stats, range_coder.FIXED) == bytes([0b10000101, 0b10000000])


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"\xa5", "take 1 bytes"), (bytes([0b11100101, 0b10000000]), "below 5"), (bytes([0, 0b00000001]), "below 5")],
)
def test_fixed_length_refuses(data, message):
    with pytest.raises(ValueError, match=message):
        range_coder.decode(data, (3,), [statistics(5)], range_coder.FIXED)


def test_bits_are_the_entropy():
    size, number = 20, 20_000
    p = np.arange(1, size + 1) / np.arange(1, size + 1).sum()
    codes = np.random.default_rng(0).choice(size, number, p=p)[None]
    exact = Statistics(integers(p), np.zeros(size, np.uint8), np.ones((CLASSES + 1, CLASSES + 1, size), np.int32))
    ideal = -np.log2(p[codes]).sum() / 8
    assert ideal < len(range_coder.encode(codes, [exact], range_coder.STATIC)) < ideal * 1.001 + 8
    wrong = exact._replace(frequencies=exact.frequencies[::-1].copy())  # costs the divergence of the two as well
    assert len(range_coder.encode(codes, [wrong], range_coder.STATIC)) == pytest.approx(
        -np.log2(p[::-1][codes]).sum() / 8, rel=1e-3
    )


def test_contexts_pay_where_neighbours_are_alike():
    stats = [statistics(20)]
    codes = skewed(np.random.default_rng(9), (1, 32, 32), 20)
    context, static = (
        len(range_coder.encode(codes, stats, coding)) for coding in (range_coder.CONTEXT, range_coder.STATIC)
    )
    rows = stats[0].rows
    by_hand = 0.0
    for y in range(32):
        for x in range(32):
            row = rows[context_of(codes[0], y, x, stats[0].classes)]
            by_hand -= np.log2(row[codes[0, y, x]] / row.sum()) / 8
    assert by_hand < context < by_hand + 8
    assert context < 0.9 * static


def test_statistics_by_hand():
    codes = np.array([[[0, 1], [1, 1]]])
    stats = gather(torch.tensor([[0.0], [1.0]]), codes)  # each codeword is its own class
    p0, p1 = 1.5 / 5, 3.5 / 5
    assert stats.frequencies.tolist() == [1 + int(p0 * SCALE), 1 + int(p1 * SCALE)]
    # left of 0 is the edge, of the ones in turn 0, the edge, 1; above are the edge twice, then 0 and 1
    left = {OUTSIDE: (1, 1), 0: (0, 1), 1: (0, 1)}
    above = {OUTSIDE: (1, 1), 0: (0, 1), 1: (0, 1)}
    prior = [
        (n0 + STRENGTH * p0) / (n0 + n1 + STRENGTH) for n0, n1 in (left[0], above[OUTSIDE])
    ]  # of code 0 right of a 0, and at the top
    both = (0 + STRENGTH * sum(prior) / 2) / (1 + STRENGTH)
    assert stats.rows[0, OUTSIDE, 0] == pytest.approx(1 + both * SCALE, abs=1)
    assert stats.rows.min() >= 1 and np.abs(stats.rows.sum(-1) - SCALE).max() <= 3


def test_damage_is_noticed_or_gives_codes():
    stats, rng = [statistics(20)], np.random.default_rng(0)
    data = range_coder.encode(skewed(rng, (1, 6, 6), 20), stats, range_coder.CONTEXT)
    for length in (0, 1, 5, 40):
        for _ in range(50):
            noise = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
            for coding in range_coder.CODINGS.values():
                try:
                    codes = range_coder.decode(noise, (6, 6), stats, coding)
                except ValueError:
                    continue
                assert codes.shape == (1, 6, 6) and codes.min() >= 0 and codes.max() < 20
    with pytest.raises(ValueError, match="end before"):
        range_coder.decode(data + b"\x55" * 100, (6, 6), stats, range_coder.CONTEXT)
