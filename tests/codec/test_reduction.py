"""Codebooks reduced by k-means: against numbers worked by hand and scipy's."""

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2

from vistok.codec.reduction import means, reduced, tables_of, with_tables
from vistok.quantizers import BinaryQuantizer, FactorizedQuantizer, JanusQuantizer
from vistok.quantizers.vq import plain


def inertia(table, centroids):
    return torch.cdist(table.double(), centroids.double()).amin(1).square().sum()


def test_clusters_that_are_plain_to_see():
    table = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 4.0], [12.0, 2.0]])
    centroids = reduced(table, 2)
    assert sorted(centroids.tolist()) == [[0.0, 1.0], [pytest.approx(32 / 3), 2.0]]


def test_weights_pull_centroids():
    table = torch.tensor([[0.0], [4.0], [100.0]])
    assert sorted(reduced(table, 2, torch.tensor([3.0, 1.0, 5.0])).flatten().tolist()) == [1.0, 100.0]


def test_means_give_an_empty_cluster_the_worst_served_codeword():
    table = torch.tensor([[0.0], [2.0], [50.0]])
    moved = means(table, torch.tensor([0, 0, 0]), torch.tensor([1.0, 1.0, 0.1]), torch.zeros(2, 1))
    # the mean is 7 / 2.1; weighted squared errors are 11.1, 1.8 and 217.8
    torch.testing.assert_close(moved, torch.tensor([[7 / 2.1], [50.0]]))


def test_as_good_as_scipys_and_a_fixed_point():
    torch.manual_seed(0)
    table = torch.randn(200, 3)
    centroids = reduced(table, 20)
    theirs = min(inertia(table, torch.from_numpy(kmeans2(table.numpy(), 20, minit="++", seed=s)[0])) for s in range(5))
    assert inertia(table, centroids) < 1.1 * theirs
    nearest = torch.cdist(table, centroids).argmin(1)
    torch.testing.assert_close(centroids, torch.stack([table[nearest == i].mean(0) for i in range(20)]))
    assert torch.equal(reduced(table, 20), centroids)


def test_unit_codewords_stay_so():
    torch.manual_seed(0)
    table = torch.nn.functional.normalize(torch.randn(64, 4))
    torch.testing.assert_close(reduced(table, 8).norm(dim=1), torch.ones(8))


def test_equal_codewords():
    assert len(reduced(torch.ones(9, 2), 4)) == 4


@pytest.mark.parametrize("size", [1, 8, 9])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match=f"size {size} must be from 2 to 7"):
        reduced(torch.randn(8, 2), size)


def test_heads():
    torch.manual_seed(0)
    tables = [torch.randn(8, 2), torch.randn(6, 3)]
    head = FactorizedQuantizer([plain(t) for t in tables], disentangle=False)
    assert all(map(torch.equal, tables_of(head), tables))
    smaller = with_tables(head, [t[:3] for t in tables])
    assert smaller.codebook_sizes == (3, 3) and smaller.dim == 5
    z = torch.randn(1, 5, 2, 2)
    codes = smaller(z).codes
    by_hand = [torch.cdist(z[0, :2].flatten(1).T, tables[0][:3]), torch.cdist(z[0, 2:].flatten(1).T, tables[1][:3])]
    assert torch.equal(codes[0].flatten(1), torch.stack([d.argmin(1) for d in by_hand]))


@pytest.mark.parametrize("head", [JanusQuantizer(8, 4), BinaryQuantizer(4)])
def test_heads_that_are_no_plain_tables(head):
    with pytest.raises(ValueError, match="cannot be reduced"):
        tables_of(head)


def test_weights_of_zero_are_reduced_too():
    table = torch.from_numpy(np.arange(10.0)[:, None]).float()
    weights = torch.zeros(10)
    weights[:2] = 1
    assert {0.0, 1.0} <= set(reduced(table, 4, weights).round(decimals=3).flatten().tolist())
