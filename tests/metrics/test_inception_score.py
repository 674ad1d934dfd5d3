"""The Inception score and its divisions, against torch-fidelity and by hand."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from vistok.metrics import InceptionScore
from vistok.metrics.inception_score import SPLITS, blocks, permutation_0

NAMES = [f"{'ab'[i % 2]}/{(7 * i) % 61:02d}.png" for i in range(60)]  # file names are not in the order of paths
LOGITS = torch.randn(60, 1008, generator=torch.Generator().manual_seed(0)) * 3


def scored(division, all_names, *parts):
    score = InceptionScore(division, all_names)
    for part in parts:
        score.update([NAMES[i] for i in part], LOGITS[part])
    return score


def by_torch_fidelity(order, splits, seed=None):
    arguments = {"shuffle": False} if seed is None else {"shuffle": True, "rng_seed": seed}
    return isc_features_to_metric(LOGITS[order], splits, **arguments)["inception_score_mean"]


def sorted_by(key):
    return sorted(range(60), key=lambda i: key(NAMES[i]))


EXPECTED = {
    "one": lambda: by_torch_fidelity(range(60), 1),
    "blocks": lambda: by_torch_fidelity(range(60), 1),  # fewer than 5,000 images
    "permutation": lambda: by_torch_fidelity(sorted_by(str), 10, 2020),
    "permutation_0": lambda: by_torch_fidelity(sorted_by(lambda name: name.split("/")[1]), 10, 0),
}


@pytest.mark.parametrize("division", SPLITS)
def test_divisions_are_those_of_the_evaluators(division):
    expected = EXPECTED[division]()
    assert expected > 1.5
    forwards, backwards = list(range(60)), list(reversed(range(60)))
    for known in (NAMES, None):
        for parts in ((forwards[:25], forwards[25:]), (backwards,)):
            assert scored(division, known, *parts).compute() == pytest.approx(expected, rel=1e-9)


def test_divisions_differ():
    assert len({round(make(), 6) for make in EXPECTED.values()}) == 3


def test_blocks_of_5000_images_in_the_order_of_names():
    names = [f"{i:05d}" for i in range(12_000)]
    assert np.bincount(blocks(names)).tolist() == [5000, 5000, 2000]
    assert blocks(names[::-1])[[0, 1999, 2000, 11_999]].tolist() == [2, 2, 1, 0]


def test_equal_file_names_in_two_folders_have_one_order():
    names = ["b/x", "a/x", "a/y"]
    assert permutation_0(names)[[1, 0, 2]].tolist() == permutation_0(["a/x", "b/x", "a/y"]).tolist()


@pytest.mark.parametrize("known", [NAMES, None])
def test_ranks_and_a_resume_change_nothing(gathered, known):
    whole = scored("permutation", known, list(range(60))).compute()
    ranks = [scored("permutation", known, list(range(rank, 60, 3))) for rank in range(3)]
    for score in gathered(ranks):
        assert score.compute() == pytest.approx(whole, rel=1e-12)
    resumed = scored("permutation", known)
    resumed.restore(*scored("permutation", known, list(range(20))).save())
    resumed.update(NAMES[20:], LOGITS[20:])
    assert resumed.compute() == pytest.approx(whole, rel=1e-12)


def test_memory_is_constant_if_names_are_known():
    score = scored("permutation", NAMES, list(range(60)))
    assert not score.logits and not score.names
    assert len(scored("permutation", None, list(range(60))).logits) == 60 * 1008


def test_classes_that_are_all_alike_score_one():
    score = InceptionScore(classes=4)
    score.update(["a", "b", "c"], torch.tensor([[5.0, 0, 0, 0]] * 3))
    assert score.compute() == pytest.approx(1)


def test_certain_and_even_classes_score_their_number():
    score = InceptionScore("one", classes=4)
    score.update([str(i) for i in range(8)], torch.eye(4).repeat(2, 1) * 100)
    assert score.compute() == pytest.approx(4)
