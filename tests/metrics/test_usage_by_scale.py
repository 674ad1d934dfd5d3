"""Counts at each scale: by hand, over ranks, and saved."""

import pytest
import torch

from vistok.metrics.usage_by_scale import UsageByScale

COARSE, FINE = torch.tensor([[[[3]]]]), torch.tensor([[[[0, 0], [1, 1]]]])


def counted(*scales):
    usage = UsageByScale([4])
    usage.update(scales)
    return usage


def test_by_hand():
    first, second = counted(COARSE, FINE).compute()
    assert first.keys() == second.keys() == {"usage", "usage_ceiling", "perplexity", "tokens"}
    assert (first["usage"], first["perplexity"], first["tokens"]) == (1 / 4, 1, 1)
    assert (second["usage"], second["perplexity"].item(), second["tokens"]) == (1 / 2, pytest.approx(2), 4)


def test_a_single_scale_is_not_counted():
    assert counted(FINE).compute() == []


def test_images_of_more_scales():
    usage = counted(COARSE, FINE)
    usage.update([COARSE, FINE, torch.zeros(1, 1, 3, 3, dtype=torch.int64)])
    assert [own["tokens"] for own in usage.compute()] == [2, 8, 9]
    usage.clear()
    assert [own["tokens"] for own in usage.compute()] == [0, 0, 0]


def test_ranks_of_which_one_has_no_images(gathered):
    for own in gathered([UsageByScale([4]), counted(COARSE, FINE), counted(COARSE, FINE)]):
        assert [own.counts[0].tolist() for own in own.scales] == [[0, 0, 0, 2], [4, 4, 0, 0]]


def test_saved_and_restored():
    tensors, about = counted(COARSE, FINE).save()
    restored = UsageByScale([4])
    restored.restore(tensors, about)
    restored.update([COARSE, FINE])
    assert [own.counts[0].tolist() for own in restored.scales] == [[0, 0, 0, 2], [4, 4, 0, 0]]
