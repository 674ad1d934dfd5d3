"""The nearest-code search against brute force in float64."""

import pytest
import torch

from vistok.kernels import nearest_code


@pytest.mark.parametrize("n, k, d", [(300, 2, 1), (257, 1000, 8), (128, 4096, 64)])
def test_brute_force(n, k, d):
    torch.manual_seed(0)
    z, codebook = torch.randn(n, d), torch.randn(k, d)
    expected = torch.cdist(z.double(), codebook.double()).argmin(1)
    assert torch.equal(nearest_code(z, codebook), expected)


def test_codewords_tiny_beside_the_vectors():
    """VQGAN's initial codebook, where |z|² - 2z·c + |c|² loses the differences between codewords."""
    torch.manual_seed(0)
    z, codebook = torch.randn(500, 64), torch.empty(4096, 64).uniform_(-1 / 4096, 1 / 4096)
    distance = (z.double()[:, None] - codebook.double()).square().sum(2)
    chosen = distance.gather(1, nearest_code(z, codebook)[:, None])[:, 0]
    assert ((chosen - distance.amin(1)) / distance.amin(1)).max() < 1e-9


def test_far_from_the_origin():
    torch.manual_seed(0)
    z, codebook = torch.randn(500, 8) + 1000, torch.randn(256, 8) + 1000
    expected = torch.cdist(z.double(), codebook.double()).argmin(1)
    assert (nearest_code(z, codebook) == expected).float().mean() == 1


def test_of_ties_the_lowest():
    codebook = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert nearest_code(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), codebook).tolist() == [1, 0]


def test_low_precision_inputs_are_searched_in_float32():
    torch.manual_seed(0)
    z, codebook = torch.randn(200, 8).bfloat16(), torch.randn(512, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        codes = nearest_code(z, codebook)
    assert torch.equal(codes, torch.cdist(z.double(), codebook.double()).argmin(1))
