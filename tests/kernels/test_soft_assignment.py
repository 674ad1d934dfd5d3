"""Streamed soft assignments against the dense matrix."""

import importlib

import pytest
import torch

from vistok.kernels import soft_assignment
from vistok.quantizers import code_statistics

module = importlib.import_module("vistok.kernels.soft_assignment")


def dense_entropy(z, codebook, temperature, weight):
    vectors = z.permute(0, 2, 3, 1).flatten(0, 2)
    log_p = (-(vectors[:, None] - codebook).square().sum(2) / temperature).log_softmax(1)
    share = weight.flatten() / weight.sum()
    mean = share @ log_p.exp()
    return -(share @ (log_p.exp() * log_p).sum(1)) + (mean * (mean + 1e-5).log()).sum()


@pytest.mark.parametrize("least", [0, 2**20])  # a vector at a time, and all at once
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_entropy_is_that_of_the_dense_matrix(monkeypatch, least, temperature):
    monkeypatch.setattr(module, "LEAST", least)
    torch.manual_seed(0)
    z, codebook = torch.randn(2, 6, 5, 9).double(), torch.randn(50, 6).double()
    inputs = [tensor.requires_grad_() for tensor in (z, codebook, torch.rand(2, 5, 9).double())]
    streamed = code_statistics.entropy(inputs[0], inputs[1], temperature, inputs[2])
    dense = dense_entropy(inputs[0], inputs[1], temperature, inputs[2])
    torch.testing.assert_close(streamed, dense, rtol=1e-12, atol=0)
    for ours, theirs in zip(*(torch.autograd.grad(loss, inputs) for loss in (streamed, dense)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 * float(theirs.abs().max()))


def test_gradients_of_both_outputs():
    torch.manual_seed(0)
    shapes = [(3, 2), (5, 2), (3,)]
    inputs = [torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    for products in (False, True):
        assert torch.autograd.gradcheck(lambda *tensors: soft_assignment(*tensors, 1.3, products), inputs)  # noqa: B023


def test_a_codebook_without_gradient():
    z, codebook = torch.randn(7, 2, requires_grad=True), torch.randn(5, 2)
    entropies, sums = soft_assignment(z, codebook, torch.ones(7), 2.0)
    assert sums.sum().item() == pytest.approx(7, rel=1e-5)
    assert torch.autograd.grad(entropies.sum(), z)[0].isfinite().all()


def test_shapes_alone():
    inputs = [torch.randn(6, 2, requires_grad=True), torch.randn(5, 2, requires_grad=True), torch.ones(6)]
    for products in (False, True):
        torch.library.opcheck(module.assign, (*inputs, 2.0, products))


def test_memory(allocated):
    """A tenth of the matrix of scores, forward and backward, gradients included."""
    n, k = 4096, 8192
    z = torch.randn(1, 8, 64, n // 64, requires_grad=True)
    codebook = torch.randn(k, 8, requires_grad=True)
    peak = allocated(lambda: torch.autograd.grad(code_statistics.entropy(z, codebook, 0.1), [z, codebook]))
    assert 2**20 < peak < 0.1 * 4 * n * k
