"""Learning-rate factors worked by hand."""

import pytest

from vistok.training.schedules import Schedule


def factors(updates, **arguments):
    schedule = Schedule(updates, **arguments)
    return [round(schedule(update), 6) for update in range(updates)]


def test_constant():
    assert factors(3) == [1, 1, 1]


def test_warmup_reaches_one():
    assert factors(5, warmup=4) == [0.25, 0.5, 0.75, 1, 1]
    assert factors(5, warmup=2, start=0.5) == [0.75, 1, 1, 1, 1]
    assert factors(8, warmup=0.25) == factors(8, warmup=2)


def test_warmup_of_a_short_run_is_half_of_it():
    assert factors(4, warmup=50) == factors(4, warmup=2) == [0.5, 1, 1, 1]
    assert factors(1, warmup=50) == [1]


def test_linear():
    assert factors(6, decay="linear", warmup=2, final=0.2) == [0.5, 1, 1, 0.8, 0.6, 0.4]


def test_cosine():
    assert factors(4, decay="cosine") == [1, 0.853553, 0.5, 0.146447]


def test_annealing_of_fvq():
    """30 % of the updates after the warm-up at the full rate, then down to 0.01 (arXiv:2509.10140, code)."""
    schedule = Schedule(1000, decay="linear", warmup=100, start=0.005, hold=0.3, final=0.01)
    assert schedule(0) == pytest.approx(0.005 + 0.995 / 100)
    assert schedule(99) == schedule(370) == 1
    assert schedule(685) == pytest.approx(0.505)
    assert schedule(1000) == schedule(5000) == pytest.approx(0.01)


def test_drops():
    """A tenth, and a tenth of that, also of a rate that falls (IBQ and Open-MAGVIT2, configs)."""
    assert factors(5, drops=[2, 4]) == [1, 1, 0.1, 0.1, 0.01]
    assert factors(4, decay="linear", drops=[3]) == [1, 0.75, 0.5, 0.025]


@pytest.mark.parametrize("arguments, message", [
    ({"decay": "step"}, "decay must be one of constant, linear, cosine, not 'step'"),
    ({"warmup": -1}, "warmup must be at least 0, not -1"),
    ({"hold": 1.5}, "hold is a share"),
    ({"drops": [5, -1]}, r"drops must be updates, 0 or later, not \[5, -1\]"),
])  # fmt: skip
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule(10, **arguments)
